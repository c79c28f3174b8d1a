"""Layers that scale every channel, and shift it: normalization layers, and PReLU.

Every channel is a problem of its own, with one or two unknowns and a closed form.
"""

import math

import keras
import tensorflow as tf

from keras_proxprop.blocks.base import Block, reason_of_no_variable
from keras_proxprop.blocks.product import product
from keras_proxprop.hiding import hidden
from keras_proxprop.keras_seams.layers import is_rematerialized, renormalizes
from keras_proxprop.keras_seams.own_call import Run
from keras_proxprop.rows.arrays import size, working_dtype
from keras_proxprop.rows.scaling import ScalingRows, SlopeRows


class ScalingBlock(Block):
    """A layer that multiplies by a weight along some axes, and may add another weight.

    The layer's own `call` computes the outputs, and does all else that it does (statistics,
    masks, precision).
    """

    # The attributes that hold the scale and the offset.
    names: tuple[str, ...] = ("gamma", "beta")

    # The columns do not mix with one another, nor with those of other layers.
    shares_rows = False

    @classmethod
    def reason_against(cls, layer):
        if is_rematerialized(layer):
            return "rematerialized"
        why = reason_of_no_variable(layer, cls.names)
        if why is not None:
            return why
        weights = cls._weights(layer)
        if not weights:
            return "no weights"
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

    def floating(self, inputs):
        if inputs.dtype.is_floating:
            return inputs
        return tf.cast(inputs, self.layer.compute_dtype)

    def others(self, z):
        """Returns the axes of `z` that the weights do not run along."""
        axis = self.layer.axis
        axes = axis if isinstance(axis, (list, tuple)) else [axis]
        rank = len(z.shape)
        return [i for i in range(rank) if i not in {axis % rank for axis in axes}]


class NormalizationBlock(ScalingBlock):
    """`x̂ · scale + offset`, with `x̂` normalized: `LayerNormalization`, `GroupNormalization`.

    Here `z` are the scale and the offset as a call reads them. So `∂L/∂z` is `AᵀD`, which
    backpropagation makes in any case, and `AᵀA` needs only the moments of `x̂`.
    """

    layer_classes: tuple[type, ...] = (
        keras.layers.LayerNormalization,
        keras.layers.GroupNormalization,
    )
    closed_price = 2.0

    def call(self, note, inputs, **kwargs):
        weights = self._weights(self.layer)
        run = Run(self.layer, weights)
        values = [tf.convert_to_tensor(w) for w in weights]
        inputs = self.floating(inputs)
        given = (inputs,), kwargs
        if weights[0] is getattr(self.layer, self.names[0], None):
            moments = self.moments(given, run, values)
        else:
            # An offset without a scale is a scale of ones.
            ones = tf.ones([self.columns], working_dtype(inputs.dtype))
            moments = self.count(inputs), ones, tf.zeros_like(ones)
        flat = [tf.reshape(value, [-1]) for value in hidden(values)]
        z = tf.unstack(note(moments, tf.stack(flat)))
        reads = [tf.reshape(read, value.shape) for read, value in zip(z, values)]
        outputs = product(run, given, values, reads)
        run.update()
        return outputs

    def count(self, x):
        """Returns the number of entries in every channel, an integer tensor."""
        return tf.convert_to_tensor(math.prod(size(x, axis) for axis in self.others(x)))

    def moments(self, given, run, values):
        """Returns count, means, and sums of squares about the mean, of the channels of `x̂`."""
        x = run(given, tf.ones_like(values[0]), *map(tf.zeros_like, values[1:]))
        x = tf.cast(x, working_dtype(x.dtype))
        count = self.count(x)
        mean, variance = tf.nn.moments(x, self.others(x))
        square = variance * tf.cast(count, x.dtype)
        return count, tf.reshape(mean, [-1]), tf.reshape(square, [-1])

    def prepare(self, inputs):
        return inputs

    def rows(self, inputs, bias):
        reads = len(self._weights(self.layer))
        return ScalingRows(*inputs, bias, reads, self.closed_price)


class BatchNormalizationBlock(NormalizationBlock):
    """`BatchNormalization`: the moments of `x̂` follow from the batch's variance."""

    layer_classes = (keras.layers.BatchNormalization,)

    def call(self, note, inputs, training=None, mask=None):
        return super().call(note, inputs, training=training, mask=mask)

    def moments(self, given, run, values):
        layer = self.layer
        (inputs,), kwargs = given
        trains = kwargs["training"] and layer.trainable
        if not trains or kwargs["mask"] is not None or renormalizes(layer):
            return super().moments(given, run, values)
        # Computed as the layer computes it, so that a graph computes it once.
        x = tf.cast(inputs, working_dtype(inputs.dtype))
        others = self.others(x)
        _, variance = keras.ops.moments(x, others, synchronized=layer.synchronized)
        count = self.count(x)
        square = tf.cast(count, x.dtype) * variance / (variance + layer.epsilon)
        return count, tf.zeros_like(square), square

    # The layer itself has computed the moments already.
    closed_price = 0.0


class RMSNormalizationBlock(NormalizationBlock):
    """`RMSNormalization`: a scale alone."""

    layer_classes = (keras.layers.RMSNormalization,)
    names = ("scale",)

    @classmethod
    def reason_against(cls, layer):
        why = super().reason_against(layer)
        # Keras reads such a scale as float32, which fails where the value is a tensor.
        if why is None and layer.variable_dtype not in ("float32", "float64"):
            why = f"its scale is in {layer.variable_dtype}"
        return why


class SlopeBlock(ScalingBlock):
    """A layer with one weight for every channel, which multiplies `scaled(inputs)`."""

    def call(self, note, inputs):
        run = Run(self.layer, self.weights)
        inputs = self.floating(inputs)
        z = product(run, ((inputs,), {}), [tf.convert_to_tensor(self.weights[0])])
        return note(self.scaled(inputs), z)

    def scaled(self, inputs):
        return inputs

    def outputs_as_matrix(self, z):
        others = self.others(z)
        axes = [axis for axis in range(len(z.shape)) if axis not in others]
        return tf.reshape(tf.transpose(z, others + axes), [-1, self.columns])

    def rows(self, inputs, bias):
        return SlopeRows(self.outputs_as_matrix(inputs))


class PReLUBlock(SlopeBlock):
    """`PReLU`: a slope for every unit, or for every channel."""

    layer_classes = (keras.layers.PReLU,)
    names = ("alpha",)

    def scaled(self, inputs):
        return -keras.ops.relu(-inputs)

    def others(self, z):
        return [0, *(self.layer.shared_axes or ())]
