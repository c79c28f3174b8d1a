"""Rows of many small problems, which are written out."""

import tensorflow as tf

from keras_proxprop import tf32
from keras_proxprop.rows.arrays import size
from keras_proxprop.rows.base import Rows
from keras_proxprop.rows.matrix import MatrixRows


def rows_in_groups(x, bias, per_item):
    """Returns `[groups, count, n]` as rows: `MatrixRows` if there is one group."""
    if x.shape[0] == 1:
        return MatrixRows(tf.squeeze(x, 0), bias, per_item)
    return GroupedRows(x, bias, per_item)


class GroupedRows(Rows):
    """Rows of many small problems, written out: a matrix of `[count, n]` for every group of
    output columns, and ones where there is a bias; `x` is `[groups, count, n]`."""

    def __init__(self, x, bias, per_item=1):
        super().__init__(bias, x.shape[-1] + int(bias), x.dtype, per_item)
        self.x = x
        self.groups = x.shape[0]
        self.gram_cost = self.groups * self.features**2

    @property
    def count(self):
        return size(self.x, 1)

    def multiply(self, direction):
        product = self.side_by_side(tf32.matmul(self.x, self.by_group(direction[0])))
        return product + direction[1] if self.bias else product

    def multiply_transposed(self, d, split=2):
        kernel = tf32.matmul(self.x, self.by_group(d), transpose_a=True, split=split)
        return self._with_bias(self.side_by_side(kernel), d)

    def trace(self):
        return tf.reduce_sum(self.x**2) / self.groups + self._ones()

    def gram(self):
        ones = [[0, 0], [0, 0], [0, 1]]
        a = tf.pad(self.x, ones, constant_values=1) if self.bias else self.x
        return tf32.with_itself(a, transpose_a=True)

    def cast(self, dtype):
        return GroupedRows(tf.cast(self.x, dtype), self.bias, self.per_item)
