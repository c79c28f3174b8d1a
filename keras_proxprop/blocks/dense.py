"""Dense: the rows are the inputs, whatever axes come before the last."""

import keras

from keras_proxprop.blocks.base import Block
from keras_proxprop.rows.matrix import positions_as_rows


class DenseBlock(Block):
    """`keras.layers.Dense` on inputs of any rank: `z = inputs @ kernel + bias`."""

    layer_classes = (keras.layers.Dense,)

    def multiply(self, inputs, kernel):
        return keras.ops.matmul(inputs, kernel)

    def rows(self, inputs, bias):
        return positions_as_rows(inputs, bias)
