"""ReversibleEmbedding: one matrix for lookups of tokens, and for projections of states."""

import functools

import keras
import tensorflow as tf

from keras_proxprop.blocks.base import Block
from keras_proxprop.blocks.embedding import EmbeddingBlock, note_lookup, whole
from keras_proxprop.blocks.product import product
from keras_proxprop.hiding import hidden
from keras_proxprop.keras_seams.own_call import Run
from keras_proxprop.keras_seams.unlisted_layers import classes_named
from keras_proxprop.rows.arrays import working_dtype
from keras_proxprop.rows.matrix import MatrixRows, positions_as_rows
from keras_proxprop.rows.one_hot import OneHotRows
from keras_proxprop.rows.tied import TiedRows


class ReversibleEmbeddingBlock(EmbeddingBlock):
    """`keras.layers.ReversibleEmbedding`: one problem if its weights are tied, else two.

    What is noted as inputs is a dict with `tokens`, or with the projected `states`. The `z` of
    a lookup and of a projection have other columns, so all entries are rows of one column.
    """

    layer_classes = classes_named("ReversibleEmbedding")
    other_names = ("reverse_embeddings",)

    @classmethod
    def reason_against(cls, layer):
        why = super().reason_against(layer)
        frozen = why == "its kernel is frozen"
        if frozen and not layer.tie_weights and layer.reverse_embeddings.trainable:
            return None
        return why

    @functools.cached_property
    def parts(self):
        if self.layer.tie_weights:
            return [self]
        return [EmbeddingBlock(self.layer, self), ProjectionPart(self.layer, self)]

    @property
    def weights(self):
        if self.layer.tie_weights:
            return super().weights
        return [weight for part in self.parts for weight in part.weights]

    @property
    def columns(self):
        return 1

    def call(self, note, inputs, reverse=False, **_):
        tied = self.layer.tie_weights
        if reverse:
            return self._project(note if tied else note.of_part(1), inputs)
        # The layer's own call passes a mask on, too.
        run = Run(self.layer, [self.layer.embeddings])
        table = tf.convert_to_tensor(self.layer.embeddings)
        z = run(((inputs,), {}), *hidden([table]))
        if tied:
            return note_lookup(lambda ids, z: note({"tokens": ids}, z), inputs, z)
        return note_lookup(note.of_part(0), inputs, z)

    def _project(self, note, states):
        layer = self.layer
        kernel = layer.embeddings if layer.tie_weights else layer.reverse_embeddings
        kernel = tf.convert_to_tensor(kernel)
        if layer.tie_weights:
            kernel = tf.transpose(kernel)
        if layer.reverse_dtype is not None:
            states, kernel = (tf.cast(x, layer.reverse_dtype) for x in (states, kernel))
        z = product(keras.ops.matmul, states, [kernel])
        z = note({"states": states} if layer.tie_weights else states, z)
        cap = layer.logit_soft_cap
        return z if cap is None else keras.ops.multiply(keras.ops.tanh(z / cap), cap)

    def prepare(self, inputs):
        if "tokens" in inputs:
            return {"tokens": whole(inputs["tokens"])}
        return {"states": tf.cast(inputs["states"], self._dtype)}

    @property
    def _dtype(self):
        return working_dtype(tf.as_dtype(self.layer.compute_dtype))

    def rows(self, inputs, bias):
        layer = self.layer
        shape = layer.input_dim, layer.output_dim
        if "tokens" in inputs:
            indices = tf.reshape(inputs["tokens"], [-1])
            uses = [OneHotRows(indices, shape[0], self._dtype)]
        else:
            uses = [MatrixRows(tf.reshape(inputs["states"], [-1, shape[1]]), False)]
        return TiedRows(uses, shape)

    def weight_as_matrix(self, weight, value):
        return value

    def matrix_as_weight(self, weight, part):
        return part


class ProjectionPart(Block):
    """The projection of a layer whose weights are not tied: a Dense without a bias."""

    @property
    def weights(self):
        return [w for w in [self.layer.reverse_embeddings] if w.trainable]

    def rows(self, inputs, bias):
        return positions_as_rows(inputs, bias)
