"""Rows of layers that scale every channel: one or two unknowns each, in closed form."""

import tensorflow as tf

from keras_proxprop import replicas
from keras_proxprop.rows.arrays import size
from keras_proxprop.rows.base import Rows


class ScalingRows(Rows):
    """One or two columns for every output column, `x̂` and maybe ones, known by moments of `x̂`.

    `D` holds the products `AᵀD`: one row for every weight that a call reads, call after call.

    Args:
        count: number of rows, an int or an integer tensor.
        mean: mean of every `x̂`, `[columns]`.
        square: sum of squares of `x̂` about its mean, `[columns]`.
        bias: whether there is a column of ones.
        reads: how many weights a call reads. An offset without a column of ones counts, too.
        closed_price: as in `Rows`.
    """

    closed_form = True

    def __init__(self, count, mean, square, bias, reads, closed_price=2.0):
        super().__init__(bias, 1 + int(bias), square.dtype)
        self.closed_price = closed_price
        self.closed_traffic = 1 + 2 * square.shape[-1]
        self._count, self._reads = count, reads
        if replicas.in_sync() > 1:
            # Without rows the moments are not numbers.
            mean, square = (tf.where(count > 0, part, 0.0) for part in (mean, square))
        self.mean, self.square = mean, square

    @property
    def count(self):
        static = tf.get_static_value(self._count)
        return self._count if static is None else int(static)

    def _number(self):
        return tf.cast(self._count, self.dtype)

    def _sum_of_squares(self):
        return self.square + self._number() * self.mean**2

    def multiply(self, direction):
        """Returns `AᵀA P`, which `multiply_transposed` takes as the `D` of one call."""
        scale, offset = direction[0], direction[1] if self.bias else 0.0
        total = self._number() * self.mean
        product = [self._sum_of_squares() * scale + total * offset]
        if self._reads == 2:
            product.append(total * scale + self._number() * offset)
        return tf.concat(product, 0)

    def multiply_transposed(self, d, split=2):
        products = tf.reduce_sum(tf.reshape(d, [-1, self._reads, d.shape[-1]]), 0)
        return tf.split(products, self._reads)[: self.features]

    def trace(self):
        return tf.reduce_mean(self._sum_of_squares()) + self._ones()

    def solve(self, d, tau, rest=None):
        """P = (AᵀA + I/τ)⁻¹ (AᵀD + rest), computed about the mean to avoid cancellation."""
        gradient = [g + r for g, r in zip(self.multiply_transposed(d), rest or [0.0, 0.0])]
        whole = self._of_all_replicas()
        if not self.bias:
            return [gradient[0] / (whole._sum_of_squares() + 1 / tau)], tf.constant(False)
        n, mean = whole._number(), whole.mean
        slope, total = gradient[0] - mean * gradient[1], gradient[1]
        shifted = n + 1 / tau
        determinant = shifted * (whole.square + 1 / tau) + mean**2 * n / tau
        scale = (shifted * slope + mean * total / tau) / determinant
        offset = (total - n * mean * scale) / shifted
        return [scale, offset], tf.constant(False)

    def _of_all_replicas(self):
        if replicas.in_sync() == 1:
            return self
        number = self._number()
        count, total = replicas.total([number, number * self.mean])
        mean = total / count
        square = replicas.total(self.square + number * (self.mean - mean) ** 2)
        return ScalingRows(count, mean, square, self.bias, self._reads, self.closed_price)

    @staticmethod
    def stack(parts):
        first = parts[0]
        number = tf.add_n([part._number() for part in parts])
        mean = tf.add_n([part._number() * part.mean for part in parts]) / number
        square = tf.add_n(
            [part.square + part._number() * (part.mean - mean) ** 2 for part in parts]
        )
        # An int where it is known, since `summary` computes with it.
        count = sum(part.count for part in parts)
        return ScalingRows(count, mean, square, first.bias, first._reads, first.closed_price)


class SlopeRows(Rows):
    """A matrix of one column for every output column."""

    closed_form = True

    def __init__(self, x):
        super().__init__(False, 1, x.dtype)
        self.x = x
        self.closed_traffic = x.shape[-1]

    @property
    def count(self):
        return size(self.x, 0)

    def multiply(self, direction):
        return self.x * direction[0]

    def multiply_transposed(self, d, split=2):
        return [tf.reduce_sum(self.x * d, 0, keepdims=True)]

    def trace(self):
        return tf.reduce_sum(self.x**2) / self.x.shape[-1]

    def solve(self, d, tau, rest=None):
        """P = (AᵀD + rest) / (AᵀA + 1/τ)"""
        gradient = self.multiply_transposed(d)[0] + (0.0 if rest is None else rest[0])
        square = replicas.total(tf.reduce_sum(self.x**2, 0, keepdims=True))
        return [gradient / (square + 1 / tau)], tf.constant(False)

    @staticmethod
    def stack(parts):
        return SlopeRows(tf.concat([part.x for part in parts], 0))
