"""Embedding: `AᵀA` is the diagonal of how often every token occurs."""

import keras
import tensorflow as tf

from keras_proxprop.blocks.base import Block, working_dtype
from keras_proxprop.blocks.rows import Rows, size


class EmbeddingBlock(Block):
    """`keras.layers.Embedding`: directions are as sparse as gradients are."""

    layer_classes = (keras.layers.Embedding,)
    kernel_name = "_embeddings"

    def __init__(self, layer):
        super().__init__(layer)
        # Directions that are sparse are not concatenated with those of other layers.
        self.geometry = type(self), id(layer)

    @property
    def weights(self):
        return [w for w in [self.layer._embeddings] if w.trainable]

    def call(self, note, inputs, **_):
        # Nothing but the weights has a gradient here, and theirs follows from `∂L/∂z`.
        return note(inputs, tf.stop_gradient(type(self.layer).call(self.layer, inputs)))

    def prepare(self, inputs):
        return inputs if inputs.dtype.is_integer else tf.cast(inputs, tf.int32)

    def rows(self, inputs, bias):
        rows = EmbeddingRows(
            tf.reshape(inputs, [-1]),
            self.layer.input_dim,
            working_dtype(tf.as_dtype(self.layer.compute_dtype)),
        )
        for length in inputs.shape[1:]:
            rows.per_item *= length or 1
        return rows

    def matrix_as_weight(self, weight, part):
        return part


class EmbeddingRows(Rows):
    """Rows that hold a single one each: in the column `indices` tells, of `features`."""

    closed_form = True

    def __init__(self, indices, features, dtype):
        super().__init__(False, features, dtype)
        # As `keras.ops.take` reads them.
        self.indices = tf.where(indices < 0, indices + features, indices)

    @property
    def count(self):
        return size(self.indices, 0)

    def multiply(self, direction):
        return tf.gather(tf.convert_to_tensor(direction[0]), self.indices)

    def multiply_transposed(self, d):
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
        curvature = self.counts() + 1 / tau
        if rest is None:
            d /= tf.gather(curvature, self.indices)[:, None]
            return self.multiply_transposed(d), tf.constant(False)
        gradient = tf.convert_to_tensor(self.multiply_transposed(d)[0]) + rest[0]
        return [gradient / curvature[:, None]], tf.constant(False)

    @staticmethod
    def stack(parts):
        first = parts[0]
        indices = tf.concat([part.indices for part in parts], 0)
        return EmbeddingRows(indices, first.features, first.dtype)
