"""Transposed convolutions: convolutions of images with zeros between their pixels."""

import keras
import tensorflow as tf

from keras_proxprop.blocks.base import Block
from keras_proxprop.rows.arrays import pad, size
from keras_proxprop.rows.patches import PatchRows
from keras_proxprop.rows.windows import Windows


class TransposedConvolutionBlock(Block):
    """`Conv1D/2D/3DTranspose`, channels last: the kernel is seen with its taps reversed."""

    layer_classes = (
        keras.layers.Conv1DTranspose,
        keras.layers.Conv2DTranspose,
        keras.layers.Conv3DTranspose,
    )

    @property
    def row_key(self):
        names = ("kernel_size", "strides", "dilation_rate", "padding", "output_padding")
        return type(self), *(getattr(self.layer, name) for name in names)

    @property
    def columns(self):
        return self.layer.filters

    def multiply(self, inputs, kernel):
        layer = self.layer
        return keras.ops.conv_transpose(
            inputs,
            kernel,
            strides=list(layer.strides),
            padding=layer.padding,
            output_padding=layer.output_padding,
            dilation_rate=layer.dilation_rate,
            data_format="channels_last",
        )

    def rows(self, inputs, bias):
        layer = self.layer
        ones = (1,) * len(layer.strides)
        windows = Windows(layer.kernel_size, ones, layer.dilation_rate, "valid")
        return PatchRows(self._spread(inputs), windows, bias)

    def _spread(self, images):
        """Returns the images with `strides - 1` zeros between pixels, and their borders."""
        layer, x = self.layer, images
        lengths = [size(x, axis) for axis in range(len(x.shape))]
        outputs = layer.compute_output_shape(lengths)
        for axis, (k, s, d) in enumerate(
            zip(layer.kernel_size, layer.strides, layer.dilation_rate), 1
        ):
            reach = (k - 1) * d
            spread = (lengths[axis] - 1) * s + 1
            x = pad(tf.expand_dims(x, axis + 1), axis + 1, 0, s - 1)
            shape = [size(x, a) for a in range(len(x.shape))]
            x = tf.reshape(x, shape[:axis] + [lengths[axis] * s] + shape[axis + 2 :])
            low = reach - self._cut(axis, k, s, d)
            window = (slice(None),) * axis + (slice(0, spread),)
            x = pad(x[window], axis, low, outputs[axis] + reach - spread - low)
        return x

    def _cut(self, axis, k, s, d):
        """Returns how many leading outputs TensorFlow leaves out: its forward convolution's
        padding, which is the same for every length."""
        if self.layer.padding == "valid":
            return 0
        length = 8 * k * d
        shape = [1] + [length] * len(self.layer.strides) + [1]
        output = self.layer.compute_output_shape(shape)[axis]
        return max((length - 1) * s + (k - 1) * d + 1 - output, 0) // 2

    def weight_as_matrix(self, weight, value):
        if weight is self.layer.kernel:
            value = self._reversed(value)
        return super().weight_as_matrix(weight, value)

    def matrix_as_weight(self, weight, part):
        if weight is not self.layer.kernel:
            return super().matrix_as_weight(weight, part)
        *taps, filters, channels = weight.shape
        return self._reversed(tf.reshape(part, [*taps, channels, filters]))

    def _reversed(self, kernel):
        """Reverses the taps, and exchanges filters and channels."""
        rank = len(kernel.shape)
        kernel = tf.reverse(kernel, list(range(rank - 2)))
        return tf.transpose(kernel, [*range(rank - 2), rank - 1, rank - 2])
