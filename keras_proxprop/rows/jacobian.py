"""Rows that are known only by their products, made by automatic differentiation."""

import math

import tensorflow as tf

from keras_proxprop.rows.arrays import nominal_product, size, working_dtype
from keras_proxprop.rows.base import Rows
from keras_proxprop.rows.matrix import PartitionedRows


class JacobianRows(Rows):
    """The Jacobian of a layer that is linear in its weights, known by its products.

    Args:
        outputs: function of values of the weights that returns tensors linear in the values.
        shapes: the weights' shapes.
        is_half: whether `outputs` computes anything in half precision.
    """

    can_average = False
    estimates_trace = True

    def __init__(self, outputs, shapes, is_half):
        self._function, self._shapes, self._is_half = outputs, shapes, is_half
        self._sizes = [math.prod(shape) for shape in shapes]
        # The outputs may be affine: the part without weights is subtracted.
        offset = outputs(*(tf.zeros(shape) for shape in shapes))
        dtype = working_dtype(offset[0].dtype)
        per_item = sum(nominal_product(x.shape[1:]) for x in offset)
        super().__init__(False, sum(self._sizes), dtype, per_item)
        self._offset = self._joined(offset)
        self.gram_cost = 2.0 * self.features**2
        self.matrix_cost = 2.0 * self.features**2

    @property
    def labels_per_item(self):
        # Every output of an item is a row.
        return 1

    @property
    def count(self):
        return size(self._offset, 0)

    def _joined(self, outputs):
        columns = [tf.cast(tf.reshape(x, [-1, 1]), self.dtype) for x in outputs]
        return columns[0] if len(columns) == 1 else tf.concat(columns, axis=0)

    def _outputs(self, values):
        return self._joined(self._function(*values))

    def multiply(self, direction):
        columns = direction[0].shape[-1]
        if columns > 1:
            # The layer takes one column at a time.
            parts = zip(*(tf.split(part, columns, axis=1) for part in direction))
            return tf.concat([self.multiply(part) for part in parts], axis=1)
        direction, norm = self._in_range(direction)
        values = [tf.reshape(p, shape) for p, shape in zip(direction, self._shapes)]
        return norm * (self._outputs(values) - self._offset)

    def multiply_transposed(self, d, split=2):
        (d,), norm = self._in_range([d])
        values = [tf.zeros(shape, self.dtype) for shape in self._shapes]
        with tf.GradientTape() as tape:
            tape.watch(values)
            z = self._outputs(values)
        gradients = tape.gradient(z, values, d, unconnected_gradients="zero")
        return [norm * tf.reshape(tf.convert_to_tensor(g), [-1, 1]) for g in gradients]

    def _in_range(self, parts):
        """Returns the parts divided by their norm, which suits the range of half precision,
        and this norm. For layers that compute in no half precision the norm is taken as 1."""
        if not self._is_half:
            return parts, 1.0
        largest = tf.reduce_max([tf.reduce_max(tf.abs(part)) for part in parts])
        scaled = [tf.math.divide_no_nan(part, largest) for part in parts]
        length = tf.sqrt(tf.add_n([tf.reduce_sum(part**2) for part in scaled]))
        return [tf.math.divide_no_nan(part, length) for part in scaled], largest * length

    def trace(self):
        """Returns an estimate of the trace: `‖A v‖²`, whose mean over signs `v` is exact."""
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
        """Returns these rows written out in another dtype; the layer itself keeps its own."""
        return self.matrix().cast(dtype)
