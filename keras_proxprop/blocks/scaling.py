"""Layers that scale every channel, and shift it: normalization layers, and PReLU.

Every channel is a problem of its own, in one or two unknowns, and has a closed form.
"""

import math

import keras
import tensorflow as tf

from keras_proxprop.blocks.base import Block, working_dtype
from keras_proxprop.blocks.rows import Rows, size
from keras_proxprop.blocks.stateless import Run, product


class ScalingBlock(Block):
    """A layer that multiplies by weights, along some of its axes, and may add others.

    The layer's own `call` computes the outputs, with all that it does besides (statistics,
    masks, precision).
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

    Its `z` are the scale and the offset, as a call reads them: `∂L/∂z` is then `AᵀD`, which
    backpropagation makes in any case, and of `x̂` only the moments are needed, for `AᵀA`.
    """

    layer_classes = (keras.layers.LayerNormalization, keras.layers.GroupNormalization)

    def call(self, note, inputs, **kwargs):
        weights = self._weights(self.layer)
        run = Run(self.layer, weights, kwargs)
        values = [tf.convert_to_tensor(w) for w in weights]
        inputs = self.floating(inputs)
        if weights[0] is getattr(self.layer, self.names[0], None):
            moments = self.moments(inputs, run, values, **kwargs)
        else:
            # An offset alone scales ones.
            ones = tf.ones([self.columns], working_dtype(inputs.dtype))
            moments = self.count(inputs), ones, tf.zeros_like(ones)
        moments = tf.nest.map_structure(tf.stop_gradient, moments)
        flat = [tf.reshape(tf.stop_gradient(value), [-1]) for value in values]
        z = tf.unstack(note(moments, tf.stack(flat)))
        reads = [tf.reshape(read, value.shape) for read, value in zip(z, values)]
        outputs = product(run, inputs, values, reads)
        run.update()
        return outputs

    def count(self, x):
        """Returns the number of entries in every channel, an integer tensor."""
        return tf.convert_to_tensor(math.prod(size(x, axis) for axis in self.others(x)))

    def moments(self, inputs, run, values, **_):
        """Returns of every channel of `x̂` count, mean, and sum of squares about the mean."""
        x = run(inputs, tf.ones_like(values[0]), *map(tf.zeros_like, values[1:]))
        x = tf.cast(x, working_dtype(x.dtype))
        count = self.count(x)
        mean, variance = tf.nn.moments(x, self.others(x))
        square = variance * tf.cast(count, x.dtype)
        return count, tf.reshape(mean, [-1]), tf.reshape(square, [-1])

    def prepare(self, inputs):
        return inputs

    def rows(self, inputs, bias):
        return ScalingRows(*inputs, bias, len(self._weights(self.layer)))


class BatchNormalizationBlock(NormalizationBlock):
    """`BatchNormalization`: the moments of `x̂` follow from the batch's variance."""

    layer_classes = (keras.layers.BatchNormalization,)

    def call(self, note, inputs, training=None, mask=None):
        return super().call(note, inputs, training=training, mask=mask)

    def moments(self, inputs, run, values, training, mask):
        layer = self.layer
        if not (training and layer.trainable) or mask is not None or layer.renorm:
            return super().moments(inputs, run, values)
        # As the layer makes it: the two are then one in a graph.
        x = tf.cast(inputs, working_dtype(inputs.dtype))
        others = self.others(x)
        _, variance = keras.ops.moments(x, others, synchronized=layer.synchronized)
        count = self.count(x)
        square = tf.cast(count, x.dtype) * variance / (variance + layer.epsilon)
        return count, tf.zeros_like(square), square

    def rows(self, inputs, bias):
        rows = super().rows(inputs, bias)
        rows.closed_cost = 0.0
        return rows


class RMSNormalizationBlock(NormalizationBlock):
    """`RMSNormalization`: a scale alone."""

    layer_classes = (keras.layers.RMSNormalization,)
    names = ("scale",)


class ScalingRows(Rows):
    """One or two columns for every output column, `x̂` and maybe ones, known by the moments.

    `D` holds the products `AᵀD`: a row for every weight that a call reads, call after call.

    Args:
        count: number of rows, an integer tensor.
        mean: of every `x̂`, `[columns]`.
        square: sum of squares of `x̂` about its mean, `[columns]`.
        bias: whether the ones take part.
        reads: how many weights a call reads: the offset, too, where it does not take part.
    """

    closed_form = True

    def __init__(self, count, mean, square, bias, reads):
        super().__init__(bias, 1 + int(bias), square.dtype)
        self.mean, self.square = mean, square
        self._count, self._reads = count, reads

    @property
    def count(self):
        static = tf.get_static_value(self._count)
        return self._count if static is None else int(static)

    def _number(self):
        return tf.cast(self._count, self.dtype)

    def _sum_of_squares(self):
        return self.square + self._number() * self.mean**2

    def multiply(self, direction):
        """Returns `AᵀA P`: what `multiply_transposed` takes for the outputs of one call."""
        scale, offset = direction[0], direction[1] if self.bias else 0.0
        total = self._number() * self.mean
        product = [self._sum_of_squares() * scale + total * offset]
        if self._reads == 2:
            product.append(total * scale + self._number() * offset)
        return tf.concat(product, 0)

    def multiply_transposed(self, d):
        products = tf.reduce_sum(tf.reshape(d, [-1, self._reads, d.shape[-1]]), 0)
        return tf.split(products, self._reads)[: self.features]

    def trace(self):
        return tf.reduce_mean(self._sum_of_squares()) + self._ones()

    def solve(self, d, tau, rest=None):
        """P = (AᵀA + I/τ)⁻¹ (AᵀD + rest), about the mean: no difference of like numbers."""
        gradient = [g + r for g, r in zip(self.multiply_transposed(d), rest or [0.0, 0.0])]
        if not self.bias:
            return [gradient[0] / (self._sum_of_squares() + 1 / tau)], tf.constant(False)
        n, mean = self._number(), self.mean
        slope, total = gradient[0] - mean * gradient[1], gradient[1]
        shifted = n + 1 / tau
        determinant = shifted * (self.square + 1 / tau) + mean**2 * n / tau
        scale = (shifted * slope + mean * total / tau) / determinant
        offset = (total - n * mean * scale) / shifted
        return [scale, offset], tf.constant(False)

    @staticmethod
    def stack(parts):
        first = parts[0]
        number = tf.add_n([part._number() for part in parts])
        mean = tf.add_n([part._number() * part.mean for part in parts]) / number
        square = tf.add_n(
            [part.square + part._number() * (part.mean - mean) ** 2 for part in parts]
        )
        count = tf.add_n([part._count for part in parts])
        return ScalingRows(count, mean, square, first.bias, first._reads)


class SlopeBlock(ScalingBlock):
    """One weight for every channel, which multiplies `scaled(inputs)`; nothing is added."""

    def call(self, note, inputs):
        run = Run(self.layer, self.weights)
        inputs = self.floating(inputs)
        z = product(run, inputs, [tf.convert_to_tensor(self.weights[0])])
        return note(tf.stop_gradient(self.scaled(inputs)), z)

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


class SlopeRows(Rows):
    """A matrix of one column for every output column."""

    closed_form = True

    def __init__(self, x):
        super().__init__(False, 1, x.dtype)
        self.x = x

    @property
    def count(self):
        return size(self.x, 0)

    def multiply(self, direction):
        return self.x * direction[0]

    def multiply_transposed(self, d):
        return [tf.reduce_sum(self.x * d, 0, keepdims=True)]

    def trace(self):
        return tf.reduce_sum(self.x**2) / self.x.shape[-1]

    def solve(self, d, tau, rest=None):
        """P = (AᵀD + rest) / (AᵀA + 1/τ)"""
        gradient = self.multiply_transposed(d)[0] + (0.0 if rest is None else rest[0])
        square = tf.reduce_sum(self.x**2, 0, keepdims=True)
        return [gradient / (square + 1 / tau)], tf.constant(False)

    @staticmethod
    def stack(parts):
        return SlopeRows(tf.concat([part.x for part in parts], 0))
