"""Rows that nothing is known of but their products, by automatic differentiation."""

import math

import tensorflow as tf

from keras_proxprop.keras_seams.own_call import Run
from keras_proxprop.rows.arrays import nominal_product, size, working_dtype
from keras_proxprop.rows.base import Rows
from keras_proxprop.rows.matrix import PartitionedRows


class JacobianRows(Rows):
    """The Jacobian of a layer that is linear in its weights, known by its products."""

    can_average = False

    def __init__(self, block, inputs):
        self._block, self._inputs = block, inputs
        self._shapes = [w.shape for w in block.weights]
        self._run = Run(block.layer, block.weights)
        self._sizes = [math.prod(shape) for shape in self._shapes]
        dtype = working_dtype(inputs.dtype)
        # Affine, if anything: what the weights do not reach is taken off.
        offset = self._run(inputs, *(tf.zeros(shape, dtype) for shape in self._shapes))
        per_item = nominal_product(offset.shape[1:])
        super().__init__(False, sum(self._sizes), dtype, per_item)
        self._offset = tf.cast(tf.reshape(offset, [-1, 1]), dtype)
        self.gram_cost = 2.0 * self.features**2
        self.matrix_cost = 2.0 * self.features**2

    @property
    def count(self):
        return size(self._offset, 0)

    def _outputs(self, values):
        return tf.cast(tf.reshape(self._run(self._inputs, *values), [-1, 1]), self.dtype)

    def multiply(self, direction):
        values = [tf.reshape(p, shape) for p, shape in zip(direction, self._shapes)]
        return self._outputs(values) - self._offset

    def multiply_transposed(self, d):
        values = [tf.zeros(shape, self.dtype) for shape in self._shapes]
        with tf.GradientTape() as tape:
            tape.watch(values)
            z = self._outputs(values)
        gradients = tape.gradient(z, values, d, unconnected_gradients="zero")
        return [tf.reshape(g, [-1, 1]) for g in gradients]

    def trace(self):
        """Returns an estimate of the trace: `‖A v‖²`, right in the mean over signs `v`."""
        signs = tf.random.stateless_uniform([self.features, 1], [0, 0], 0, 2, tf.int32)
        v = tf.cast(2 * signs - 1, self.dtype)
        return tf.reduce_sum(self.multiply(self.split(v)) ** 2)

    def split(self, stacked):
        return tf.split(stacked, self._sizes)

    def matrix(self):

        def column(unit):
            return self.multiply(self.split(unit[:, None]))[:, 0]

        columns = tf.map_fn(column, tf.eye(self.features, dtype=self.dtype))
        return PartitionedRows(tf.transpose(columns), self._sizes)

    def gram(self):
        return self.matrix().gram()

    def cast(self, dtype):
        """Returns these rows written out in another dtype: the layer's own is what it is."""
        return self.matrix().cast(dtype)
