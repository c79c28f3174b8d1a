"""Rows with a single 1 each: `AᵀA` is diagonal and holds how often every token occurs."""

import tensorflow as tf

from keras_proxprop import replicas
from keras_proxprop.rows.arrays import size
from keras_proxprop.rows.base import Rows


class OneHotRows(Rows):
    """Rows with a single 1 each, in the column that `indices` says, of `features` columns."""

    closed_form = True
    entries = 1

    def __init__(self, indices, features, dtype, per_item=1):
        super().__init__(False, features, dtype, per_item)
        self.closed_traffic = features
        # Negative indices count from the end, as in `keras.ops.take`.
        self.indices = tf.where(indices < 0, indices + features, indices)

    @property
    def count(self):
        return size(self.indices, 0)

    def multiply(self, direction):
        return tf.gather(tf.convert_to_tensor(direction[0]), self.indices)

    def multiply_transposed(self, d, split=2):
        shape = tf.constant([self.features, d.shape[-1]])
        return [tf.IndexedSlices(d, self.indices, shape)]

    def counts(self):
        """Returns the diagonal of `AᵀA`, `[features]`."""
        ones = tf.ones_like(self.indices, self.dtype)
        return tf.math.unsorted_segment_sum(ones, self.indices, self.features)

    def trace(self):
        return tf.cast(self.count, self.dtype)

    def solve(self, d, tau, rest=None):
        """P = (AᵀD + rest) / (counts + 1/τ), sparse where there is no rest."""
        curvature = replicas.total(self.counts()) + 1 / tau
        if rest is None:
            d /= tf.gather(curvature, self.indices)[:, None]
            return self.multiply_transposed(d), tf.constant(False)
        gradient = tf.convert_to_tensor(self.multiply_transposed(d)[0]) + rest[0]
        return [gradient / curvature[:, None]], tf.constant(False)

    @staticmethod
    def stack(parts):
        first = parts[0]
        indices = tf.concat([part.indices for part in parts], 0)
        per_item = sum(part.per_item for part in parts)
        return OneHotRows(indices, first.features, first.dtype, per_item)
