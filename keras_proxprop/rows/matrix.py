"""Rows that are written out as a matrix."""

import tensorflow as tf

from keras_proxprop import replicas, tf32
from keras_proxprop.rows.arrays import border, nominal_product, size
from keras_proxprop.rows.base import Rows


class MatrixRows(Rows):
    """Rows written out: a matrix `x` of `[count, n]`, and ones where there is a bias."""

    def __init__(self, x, bias, per_item=1):
        super().__init__(bias, x.shape[-1] + int(bias), x.dtype, per_item)
        self.x = x
        self.gram_cost = self.features**2

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
        return tf.concat([self.x, tf.ones_like(self.x[:, :1])], 1) if self.bias else self.x

    def split_columns(self, matrix):
        """Returns `[count, features]` as a list: the columns of every weight."""
        return tf.split(matrix, [self.features - 1, 1], axis=1) if self.bias else [matrix]

    def matrix(self):
        return self

    def cast(self, dtype):
        return self._like(tf.cast(self.x, dtype))

    def of_all_replicas(self):
        """Returns the rows of all replicas, one replica's after the other's."""
        return self._like(replicas.gathered(self.x))

    def _like(self, x):
        return MatrixRows(x, self.bias, self.per_item)


class PartitionedRows(MatrixRows):
    """Rows written out whose features belong to several weights, `sizes[i]` to weight `i`."""

    def __init__(self, x, sizes, per_item=1):
        super().__init__(x, False, per_item)
        self._sizes = sizes

    def multiply(self, direction):
        return super().multiply([tf.concat(direction, axis=0)])

    def multiply_transposed(self, d, split=2):
        return self.split(super().multiply_transposed(d, split)[0])

    def split(self, stacked):
        return tf.split(stacked, self._sizes)

    def split_columns(self, matrix):
        return tf.split(matrix, self._sizes, axis=1)

    def _like(self, x):
        return PartitionedRows(x, self._sizes, self.per_item)

    @staticmethod
    def stack(parts):
        x = tf.concat([part.x for part in parts], 0)
        return PartitionedRows(x, parts[0]._sizes, sum(part.per_item for part in parts))


def positions_as_rows(inputs, bias):
    """Returns `[batch, *positions, n]` as rows, one for every position of every item."""
    x = tf.reshape(inputs, [-1, inputs.shape[-1]])
    return MatrixRows(x, bias, nominal_product(inputs.shape[1:-1]))
