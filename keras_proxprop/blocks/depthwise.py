"""Depthwise convolutions: every input channel is a small problem of its own."""

import keras

from keras_proxprop.blocks.base import Block
from keras_proxprop.rows.grouped_patches import patches_in_groups
from keras_proxprop.rows.windows import Windows


class DepthwiseBlock(Block):
    """`DepthwiseConv1D/2D`, channels last."""

    layer_classes = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)

    # Their columns stand channel by channel, not layer by layer.
    shares_rows = False

    @property
    def columns(self):
        *_, channels, multiplier = self.kernel.shape
        return channels * multiplier

    def multiply(self, inputs, kernel):
        return Windows.of(self.layer).convolve_channels(inputs, kernel)

    def rows(self, inputs, bias):
        windows, channels = Windows.of(self.layer), inputs.shape[-1]
        return patches_in_groups(inputs, windows, bias, channels)
