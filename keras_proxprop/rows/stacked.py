"""The rows of several calls of one layer."""

import tensorflow as tf

from keras_proxprop.rows.base import Rows
from keras_proxprop.rows.matrix import MatrixRows, PartitionedRows


class StackedRows(Rows):
    """The rows of several calls of one layer, one after the other, as one problem."""

    def __init__(self, parts):
        first = parts[0]
        per_item = sum(part.per_item for part in parts)
        super().__init__(first.bias, first.features, first.dtype, per_item)
        self.parts = parts
        self.groups = first.groups
        self.gram_cost = max(part.gram_cost for part in parts)
        self.matrix_cost = max(part.matrix_cost for part in parts)
        self.choose_at_run_time = all(part.choose_at_run_time for part in parts)
        self.can_average = first.can_average

    @property
    def count(self):
        return sum(part.count for part in self.parts)

    def multiply(self, direction):
        return tf.concat([part.multiply(direction) for part in self.parts], 0)

    def multiply_transposed(self, d, split=2):
        parts = self._of_parts("multiply_transposed", d, split)
        return [tf.add_n(terms) for terms in zip(*parts)]

    def equations_in_float64(self, d):
        pairs = self._of_parts("equations_in_float64", d)
        grams, products = zip(*pairs)
        return tf.add_n(grams), [tf.add_n(terms) for terms in zip(*products)]

    def _of_parts(self, name, d, *args):
        pieces = tf.split(d, [part.count for part in self.parts], axis=0)
        return [getattr(part, name)(piece, *args) for part, piece in zip(self.parts, pieces)]

    def split(self, stacked):
        return self.parts[0].split(stacked)

    def trace(self):
        return tf.add_n([part.trace() for part in self.parts])

    def gram(self):
        return tf.add_n([part.gram() for part in self.parts])

    def matrix(self):
        matrices = [part.matrix() for part in self.parts]
        if isinstance(matrices[0], PartitionedRows):
            return PartitionedRows.stack(matrices)
        return MatrixRows(tf.concat([matrix.x for matrix in matrices], 0), self.bias)


def stack(parts):
    """Returns the rows of several calls of one layer as one problem."""
    if len(parts) == 1:
        return parts[0]
    return getattr(type(parts[0]), "stack", StackedRows)(parts)
