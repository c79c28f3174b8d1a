"""Scales and offsets along a channel: normalization layers, and PReLU.

Every channel is a problem of its own, in one or two unknowns, and has a closed form.
"""

import math

import keras
import tensorflow as tf

from keras_proxprop.blocks.base import Block
from keras_proxprop.blocks.rows import Rows, size
from keras_proxprop.blocks.stateless import Run, product


class ScalingBlock(Block):
    """A layer with `z = x̂ · scale + offset`, its weights along some of the axes of `x̂`.

    The layer's own `call` computes `z`, with all that it does besides (statistics, masks,
    precision), and `x̂` too, with other values in the place of its weights.
    """

    # The attributes that hold the scale and the offset.
    names = ("gamma", "beta")

    def __init__(self, layer):
        super().__init__(layer)
        # Their columns do not mix, and not with those of other layers.
        self.geometry = type(self), id(layer)

    @classmethod
    def reason_against(cls, layer):
        weights = cls._weights(layer)
        if not weights:
            return "no weights"
        strategy = getattr(weights[0]._value, "distribute_strategy", None)
        if getattr(layer, "synchronized", False) and strategy is not None:
            if strategy.num_replicas_in_sync > 1:
                return "synchronized across replicas"
        return None if weights[0].trainable else "its scale is frozen"

    @classmethod
    def _weights(cls, layer):
        found = [getattr(layer, name, None) for name in cls.names]
        return [w for w in found if isinstance(w, keras.Variable)]

    @property
    def weights(self):
        return [w for w in self._weights(self.layer) if w.trainable]

    @property
    def columns(self):
        return math.prod(self.weights[0].shape)

    @property
    def axes(self):
        """The axes of `z` that the weights run along."""
        axis = self.layer.axis
        return axis if isinstance(axis, (list, tuple)) else [axis]

    def call(self, note, inputs, **kwargs):
        weights = self._weights(self.layer)
        run = Run(self.layer, weights, kwargs)
        values = [tf.convert_to_tensor(w) for w in weights]
        if not inputs.dtype.is_floating:
            inputs = tf.cast(inputs, self.layer.compute_dtype)
        z = product(run, inputs, values)
        run.update()
        if weights[0] is not getattr(self.layer, self.names[0], None):
            # An offset alone scales ones.
            return note(tf.ones_like(z), z)
        return note(tf.stop_gradient(self.scaled(run, inputs, values)), z)

    def scaled(self, run, inputs, values):
        """Returns `x̂`: the outputs with a scale of ones and no offset."""
        return run(inputs, tf.ones_like(values[0]), *map(tf.zeros_like, values[1:]))

    def rows(self, inputs, bias):
        rows = ScalingRows(self.outputs_as_matrix(inputs), bias)
        rows.per_item = math.prod(n or 1 for n in inputs.shape[1:]) // self.columns
        return rows

    def outputs_as_matrix(self, z):
        rank = len(z.shape)
        axes = [axis % rank for axis in self.axes]
        others = [axis for axis in range(rank) if axis not in axes]
        return tf.reshape(tf.transpose(z, others + axes), [-1, self.columns])


class NormalizationBlock(ScalingBlock):
    """`BatchNormalization`, `LayerNormalization`, `GroupNormalization`."""

    layer_classes = (
        keras.layers.BatchNormalization,
        keras.layers.LayerNormalization,
        keras.layers.GroupNormalization,
    )


class RMSNormalizationBlock(ScalingBlock):
    """`RMSNormalization`: a scale alone."""

    layer_classes = (keras.layers.RMSNormalization,)
    names = ("scale",)


class PReLUBlock(ScalingBlock):
    """`PReLU`: a slope for every unit, or for every channel."""

    layer_classes = (keras.layers.PReLU,)
    names = ("alpha",)

    @property
    def axes(self):
        shared = self.layer.shared_axes or []
        return [a for a in range(1, len(self.layer.alpha.shape) + 1) if a not in shared]

    def scaled(self, run, inputs, values):
        return -keras.ops.relu(-inputs)


class ScalingRows(Rows):
    """A matrix `A` of one or two columns for every output column: `x`'s, and maybe ones."""

    closed_form = True

    def __init__(self, x, bias):
        super().__init__(bias, 1 + int(bias), x.dtype)
        self.x = x

    @property
    def count(self):
        return size(self.x, 0)

    def multiply(self, direction):
        product = self.x * direction[0]
        return product + direction[1] if self.bias else product

    def multiply_transposed(self, d):
        scale = tf.reduce_sum(self.x * d, 0, keepdims=True)
        return [scale, tf.reduce_sum(d, 0, keepdims=True)] if self.bias else [scale]

    def trace(self):
        return tf.reduce_sum(self.x**2) / self.x.shape[-1] + self._ones()

    def solve(self, d, tau, rest=None):
        """P = (AᵀA + I/τ)⁻¹ (AᵀD + rest), by centering x: no difference of like numbers."""
        rest = rest or [0.0, 0.0]
        if not self.bias:
            gradient = self.multiply_transposed(d)[0] + rest[0]
            square = tf.reduce_sum(self.x**2, 0, keepdims=True)
            return [gradient / (square + 1 / tau)], tf.constant(False)
        n = tf.cast(self.count, self.dtype)
        mean = tf.reduce_mean(self.x, 0, keepdims=True)
        centered = self.x - mean
        square = tf.reduce_sum(centered**2, 0, keepdims=True)
        total = tf.reduce_sum(d, 0, keepdims=True) + rest[1]
        slope = tf.reduce_sum(centered * d, 0, keepdims=True) + rest[0] - mean * rest[1]
        shifted = n + 1 / tau
        determinant = shifted * (square + 1 / tau) + mean**2 * n / tau
        scale = (shifted * slope + mean * total / tau) / determinant
        offset = (total - n * mean * scale) / shifted
        return [scale, offset], tf.constant(False)

    @staticmethod
    def stack(parts):
        return ScalingRows(tf.concat([part.x for part in parts], 0), parts[0].bias)
