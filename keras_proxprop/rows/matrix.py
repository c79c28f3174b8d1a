"""Rows that are written out as a matrix."""

import tensorflow as tf

from keras_proxprop import replicas, tf32
from keras_proxprop.rows.arrays import border, nominal_product, size
from keras_proxprop.rows.base import Rows


class MatrixRows(Rows):
    """Rows written out: a matrix `x` of `[count, n]`, and ones where there is a bias."""

    def __init__(self, x, bias, per_item=1):
        # The width is unknown where one trace is made for many layers.
        features = None if x.shape[-1] is None else x.shape[-1] + int(bias)
        super().__init__(bias, features, x.dtype, per_item)
        self.x = x

    @property
    def gram_cost(self):
        return self.features**2

    @property
    def layout(self):
        return self.bias

    @property
    def count(self):
        return size(self.x, 0)

    def multiply(self, direction):
        product = tf32.matmul(self.x, direction[0])
        return product + direction[1] if self.bias else product

    def multiply_transposed(self, d, split=2):
        kernel = tf32.matmul(self.x, d, transpose_a=True, split=split)
        return self._with_bias(kernel, d)

    def trace(self):
        return tf.reduce_sum(self.x**2) + self._ones()

    def gram(self):
        gram = tf32.with_itself(self.x, transpose_a=True)
        if not self.bias:
            return gram
        sums = tf.reduce_sum(self.x, axis=0, keepdims=True)
        return border(gram, sums, tf.cast(self.count, self.dtype))

    def outer(self):
        """Returns `AAᵀ`, `[count, count]`."""
        outer = tf32.with_itself(self.x, transpose_b=True)
        return outer + 1 if self.bias else outer

    def with_ones(self):
        """Returns `A` with the bias's column of ones written out."""
        return tf.pad(self.x, [[0, 0], [0, 1]], constant_values=1) if self.bias else self.x

    def split_columns(self, matrix):
        """Returns `[count, features]` as a list: the columns of every weight."""
        return tf.split(matrix, [-1, 1], axis=1) if self.bias else [matrix]

    def matrix(self):
        return self

    def cast(self, dtype):
        return self._like(tf.cast(self.x, dtype))

    def of_all_replicas(self):
        """Returns the rows of all replicas, one replica's after the other's."""
        return self._like(replicas.gathered(self.x))

    def _like(self, x):
        return laid_out(x, self.layout, self.per_item)


class PartitionedRows(MatrixRows):
    """Rows written out whose features belong to several weights, `sizes[i]` to weight `i`."""

    def __init__(self, x, sizes, per_item=1):
        super().__init__(x, False, per_item)
        self._sizes = tuple(sizes)

    @property
    def layout(self):
        return self._sizes

    def multiply(self, direction):
        return super().multiply([tf.concat(direction, axis=0)])

    def multiply_transposed(self, d, split=2):
        return self.split(super().multiply_transposed(d, split)[0])

    def split(self, stacked):
        return tf.split(stacked, self._sizes)

    def split_columns(self, matrix):
        return tf.split(matrix, self._sizes, axis=1)

    @staticmethod
    def stack(parts):
        x = tf.concat([part.x for part in parts], 0)
        return PartitionedRows(x, parts[0]._sizes, sum(part.per_item for part in parts))


def laid_out(x, layout, per_item=1):
    """Returns the rows of a matrix.

    Args:
        x: `[count, n]`.
        layout: whether there is a bias; or how many features belong to each weight, a tuple.
        per_item: as in `Rows`.
    """
    kind = MatrixRows if isinstance(layout, bool) else PartitionedRows
    return kind(x, layout, per_item)


def positions_as_rows(inputs, bias):
    """Returns `[batch, *positions, n]` as rows, one for every position of every item."""
    x = tf.reshape(inputs, [-1, inputs.shape[-1]])
    return MatrixRows(x, bias, nominal_product(inputs.shape[1:-1]))
