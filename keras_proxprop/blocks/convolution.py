"""Convolutions: the rows are the patches."""

import keras

from keras_proxprop.blocks.base import Block
from keras_proxprop.rows.grouped_patches import GroupedPatchRows
from keras_proxprop.rows.patches import PatchRows
from keras_proxprop.rows.windows import Windows


class ConvolutionBlock(Block):
    """`Conv1D/2D/3D`, channels last: `z = conv(inputs, kernel) + bias`.

    With several groups every group of filters is a problem of its own, on its own channels.
    """

    layer_classes = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)

    def __init__(self, layer):
        super().__init__(layer)
        self._windows = self.geometry = Windows.of(layer)
        if layer.groups > 1:
            # Their columns stand group by group, not layer by layer.
            self.geometry = type(self), id(layer)

    def linear(self, inputs, kernel, bias=None):
        z = self._windows.convolve(inputs, kernel)
        return z if bias is None else keras.ops.add(z, bias)

    def rows(self, inputs, bias):
        if self.layer.groups > 1:
            return GroupedPatchRows(inputs, self._windows, bias, self.layer.groups)
        return PatchRows(inputs, self._windows, bias)
