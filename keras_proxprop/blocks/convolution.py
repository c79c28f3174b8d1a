"""Convolutions: the rows are the patches."""

import keras

from keras_proxprop.blocks.base import Block
from keras_proxprop.rows.grouped_patches import patches_in_groups
from keras_proxprop.rows.windows import Windows


class ConvolutionBlock(Block):
    """`Conv1D/2D/3D`, channels last: `z = conv(inputs, kernel) + bias`.

    If there are several groups, each group of filters is a problem on its own channels.
    """

    layer_classes = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)

    @property
    def row_key(self):
        # The columns of groups stand group by group, not layer by layer.
        return type(self), id(self.layer) if self.layer.groups > 1 else Windows.of(self.layer)

    def multiply(self, inputs, kernel):
        return Windows.of(self.layer).convolve(inputs, kernel)

    def rows(self, inputs, bias):
        windows = Windows.of(self.layer)
        return patches_in_groups(inputs, windows, bias, self.layer.groups)
