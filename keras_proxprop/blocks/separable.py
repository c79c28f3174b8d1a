"""Separable convolutions: a depthwise convolution, and a Dense on every pixel."""

import functools

import keras
import tensorflow as tf

from keras_proxprop.blocks.base import Block, CompositeBlock
from keras_proxprop.blocks.depthwise import DepthwiseBlock
from keras_proxprop.rows.matrix import MatrixRows


class SeparableBlock(CompositeBlock):
    """`SeparableConv1D/2D`, channels last: linear in each of its kernels, two problems."""

    layer_classes = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
    kernel_name = "depthwise_kernel"

    def __init__(self, layer):
        super().__init__(layer, [DepthwisePart(layer), PointwisePart(layer)])

    def call(self, note, inputs, **_):
        depthwise, pointwise = self.parts
        z = depthwise.call(functools.partial(note, part=0), inputs)
        return pointwise.call(functools.partial(note, part=1), z)


class DepthwisePart(DepthwiseBlock):
    """The first map, which has no bias and no activation."""

    kernel_name = "depthwise_kernel"

    @property
    def weights(self):
        return [self.layer.depthwise_kernel]

    def values(self):
        return [self.layer.depthwise_kernel]

    def finish(self, z):
        return z


class PointwisePart(Block):
    """The second: a convolution with windows of one pixel."""

    kernel_name = "pointwise_kernel"

    def values(self):
        bias = self.layer.bias
        kernel = self.layer.pointwise_kernel
        return [kernel] if bias is None else [kernel, bias]

    def linear(self, inputs, kernel, bias=None):
        z = keras.ops.conv(inputs, kernel, padding="valid", data_format="channels_last")
        return z if bias is None else keras.ops.add(z, bias)

    def rows(self, inputs, bias):
        rows = MatrixRows(tf.reshape(inputs, [-1, inputs.shape[-1]]), bias)
        for length in inputs.shape[1:-1]:
            rows.per_item *= length or 1
        return rows
