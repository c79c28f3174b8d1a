"""Depthwise convolutions: every input channel is a small problem of its own."""

import keras

from keras_proxprop.blocks.base import Block
from keras_proxprop.rows.grouped_patches import GroupedPatchRows
from keras_proxprop.rows.windows import Windows


class DepthwiseBlock(Block):
    """`DepthwiseConv1D/2D`, channels last."""

    layer_classes = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
    kernel_name = "kernel"

    def __init__(self, layer):
        super().__init__(layer)
        # Their columns stand channel by channel, not layer by layer.
        self.geometry = type(self), id(layer)

    @property
    def columns(self):
        *_, channels, multiplier = getattr(self.layer, self.kernel_name).shape
        return channels * multiplier

    def linear(self, inputs, kernel, bias=None):
        z = Windows.of(self.layer).convolve_channels(inputs, kernel)
        return z if bias is None else keras.ops.add(z, bias)

    def rows(self, inputs, bias):
        geometry, channels = Windows.of(self.layer), inputs.shape[-1]
        return GroupedPatchRows(inputs, geometry, bias, channels)
