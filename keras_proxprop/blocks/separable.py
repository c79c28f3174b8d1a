"""Separable convolutions: a depthwise convolution, and a Dense on every pixel."""

import keras

from keras_proxprop.blocks.base import Block, CompositeBlock
from keras_proxprop.blocks.depthwise import DepthwiseBlock
from keras_proxprop.rows.matrix import positions_as_rows


class SeparableBlock(CompositeBlock):
    """`SeparableConv1D/2D`, channels last. Each of its two kernels is a problem."""

    layer_classes = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
    kernel_name = "depthwise_kernel"
    other_names = ("pointwise_kernel", "bias")

    def make_parts(self):
        return [DepthwisePart(self.layer, self), PointwisePart(self.layer, self)]

    def call(self, note, inputs, **_):
        depthwise, pointwise = self.parts
        z = depthwise.call(note.of_part(0), inputs)
        return pointwise.call(note.of_part(1), z)


class DepthwisePart(DepthwiseBlock):
    """The first map, which has no bias and no activation."""

    kernel_name = "depthwise_kernel"
    bias = None

    def finish(self, z):
        return z


class PointwisePart(Block):
    """The second map: a convolution with windows of one pixel."""

    kernel_name = "pointwise_kernel"

    def multiply(self, inputs, kernel):
        return keras.ops.conv(inputs, kernel, padding="valid", data_format="channels_last")

    def rows(self, inputs, bias):
        return positions_as_rows(inputs, bias)
