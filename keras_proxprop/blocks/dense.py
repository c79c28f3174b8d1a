"""Dense: the rows are the inputs, whatever axes come before the last."""

import keras
import tensorflow as tf

from keras_proxprop.blocks.base import Block
from keras_proxprop.rows.matrix import positions_as_rows
from keras_proxprop.rows.sparse import SparseRows


class DenseBlock(Block):
    """`keras.layers.Dense` on inputs of any rank: `z = inputs @ kernel + bias`."""

    layer_classes = (keras.layers.Dense,)

    def multiply(self, inputs, kernel):
        return keras.ops.matmul(inputs, kernel)

    @staticmethod
    def takes(kind):
        return kind in (None, "sparse")

    def rows(self, inputs, bias):
        if isinstance(inputs, tf.SparseTensor):
            return SparseRows.of(inputs, self.layer.kernel.shape[0], bias)
        return positions_as_rows(inputs, bias)
