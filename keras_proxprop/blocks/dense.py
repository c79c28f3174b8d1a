"""Dense: the rows are the inputs, whatever axes come before the last."""

import math

import keras
import tensorflow as tf

from keras_proxprop.blocks.base import Block
from keras_proxprop.rows.matrix import MatrixRows


class DenseBlock(Block):
    """`keras.layers.Dense` on inputs of any rank: `z = inputs @ kernel + bias`."""

    layer_classes = (keras.layers.Dense,)

    def linear(self, inputs, kernel, bias=None):
        z = keras.ops.matmul(inputs, kernel)
        return z if bias is None else keras.ops.add(z, bias)

    def rows(self, inputs, bias):
        rows = MatrixRows(tf.reshape(inputs, [-1, inputs.shape[-1]]), bias)
        rows.per_item = math.prod(n or 1 for n in inputs.shape[1:-1])
        return rows
