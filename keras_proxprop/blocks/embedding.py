"""Embedding: `AᵀA` is the diagonal of how often every token occurs."""

import keras
import tensorflow as tf

from keras_proxprop.blocks.base import Block
from keras_proxprop.hiding import unseen
from keras_proxprop.rows.arrays import nominal_product, working_dtype
from keras_proxprop.rows.one_hot import OneHotRows


class EmbeddingBlock(Block):
    """`keras.layers.Embedding`: directions are as sparse as gradients are."""

    layer_classes = (keras.layers.Embedding,)
    kernel_name = "embeddings"
    other_names: tuple[str, ...] = ()

    # Directions that are sparse are not concatenated with those of other layers.
    shares_rows = False

    @property
    def weights(self):
        return [w for w in [self.layer.embeddings] if w.trainable]

    @staticmethod
    def takes(kind):
        return kind in (None, "sparse", "ragged")

    def call(self, note, inputs, **_):
        # Nothing but the weights has a gradient here, and theirs follows from `∂L/∂z`.
        with unseen():
            z = type(self.layer).call(self.layer, inputs)
        return note_lookup(note, inputs, z)

    def prepare(self, inputs):
        return whole(inputs)

    def rows(self, inputs, bias):
        dtype = working_dtype(tf.as_dtype(self.layer.compute_dtype))
        indices = tf.reshape(inputs, [-1])
        return OneHotRows(
            indices, self.layer.input_dim, dtype, nominal_product(inputs.shape[1:])
        )

    def matrix_as_weight(self, weight, part):
        return part


def note_lookup(note, ids, z):
    """Notes a lookup, with sparse and ragged ids as the plain ones that they stand for."""
    if isinstance(ids, tf.RaggedTensor):
        return z.with_flat_values(note(ids.flat_values, z.flat_values))
    if isinstance(ids, tf.SparseTensor):
        # Missing entries are looked up as token 0.
        ids = tf.ensure_shape(tf.sparse.to_dense(ids), ids.shape)
    return note(ids, z)


def whole(ids):
    """Returns ids of any dtype in one that holds every token, as the layer's `call` does."""
    return ids if ids.dtype in (tf.int32, tf.int64) else tf.cast(ids, tf.int32)
