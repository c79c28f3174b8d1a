"""Rows of mostly zeros, which are not written out where there are many of them."""

import tensorflow as tf

from keras_proxprop import replicas
from keras_proxprop.rows.arrays import border, nominal_product
from keras_proxprop.rows.base import Rows
from keras_proxprop.rows.matrix import MatrixRows
from keras_proxprop.rows.stacked import StackedRows


class SparseRows(MatrixRows):
    """Rows in a `tf.SparseTensor` of `[count, n]`, and ones where there is a bias.

    Entries that stand for the same place are added up, as the layer's own product adds them.
    Prices are those of a dense matrix: the number of entries is not known at trace time.
    """

    # A Gram matrix that is kept is `[features, features]`, and here features are many.
    can_average = False
    # Nor are they written out where only a few are needed.
    layout = None

    def __init__(self, sparse, width, bias, per_item=1):
        Rows.__init__(self, bias, width + int(bias), sparse.dtype, per_item)
        self.sparse, self._width = sparse, width

    @classmethod
    def of(cls, inputs, width, bias):
        """Returns the rows of a `tf.SparseTensor`, whose last axis is `width` long."""
        positions = inputs.shape[1:-1] if inputs.shape.rank else []
        if inputs.indices.shape[1] != 2:
            inputs = tf.sparse.reshape(inputs, [-1, width])
        places = inputs.indices[:, 0] * width + inputs.indices[:, 1]
        order = tf.argsort(places)
        places, of_entry = tf.unique(tf.gather(places, order))
        values = tf.gather(inputs.values, order)
        values = tf.math.unsorted_segment_sum(values, of_entry, tf.size(places))
        places = tf.stack([places // width, places % width], axis=1)
        sparse = tf.SparseTensor(places, values, inputs.dense_shape)
        return cls(sparse, width, bias, nominal_product(positions))

    @property
    def count(self):
        shape = self.sparse.dense_shape
        static = tf.get_static_value(shape)
        return tf.cast(shape[0], tf.int32) if static is None else int(static[0])

    @property
    def x(self):
        """The matrix written out, for few rows, or for rows stacked with written ones."""
        return tf.ensure_shape(tf.sparse.to_dense(self.sparse), [None, self._width])

    def multiply(self, direction):
        product = tf.sparse.sparse_dense_matmul(self.sparse, direction[0])
        return product + direction[1] if self.bias else product

    def multiply_transposed(self, d, split=2):
        kernel = tf.sparse.sparse_dense_matmul(self.sparse, d, adjoint_a=True)
        return self._with_bias(tf.ensure_shape(kernel, [self._width, d.shape[1]]), d)

    def trace(self):
        return tf.reduce_sum(self.sparse.values**2) + self._ones()

    def gram(self):
        gram = self._product(transpose_a=True)
        gram = tf.ensure_shape(gram, [self._width] * 2)
        if not self.bias:
            return gram
        sums = tf.math.unsorted_segment_sum(
            self.sparse.values, self.sparse.indices[:, 1], self._width
        )
        return border(gram, sums[None], tf.cast(self.count, self.dtype))

    def outer(self):
        outer = self._product(transpose_b=True)
        return outer + 1 if self.bias else outer

    def _product(self, **transposed):
        """Returns the product of the matrix with itself, dense."""
        x, dtype = self.sparse, self.dtype
        csr = tf.raw_ops.SparseTensorToCSRSparseMatrix(
            indices=x.indices, values=x.values, dense_shape=x.dense_shape
        )
        product = tf.raw_ops.SparseMatrixSparseMatMul(a=csr, b=csr, type=dtype, **transposed)
        return tf.raw_ops.CSRSparseMatrixToDense(sparse_input=product, type=dtype)

    def of_all_replicas(self):
        if replicas.in_sync() == 1:
            return self
        before, after = replicas.around(self.count)
        down = tf.cast(tf.stack([before, 0])[None], tf.int64)
        indices = replicas.gathered(self.sparse.indices + down)
        shape = [before + self.count + after, self._width]
        values = replicas.gathered(self.sparse.values)
        sparse = tf.SparseTensor(indices, values, tf.cast(tf.stack(shape), tf.int64))
        return SparseRows(sparse, self._width, self.bias, self.per_item)

    def cast(self, dtype):
        sparse = tf.cast(self.sparse, dtype)
        return SparseRows(sparse, self._width, self.bias, self.per_item)

    @staticmethod
    def stack(parts):
        if not all(isinstance(part, SparseRows) for part in parts):
            return StackedRows(parts)
        sparse = tf.sparse.concat(0, [part.sparse for part in parts])
        per_item = sum(part.per_item for part in parts)
        return SparseRows(sparse, parts[0]._width, parts[0].bias, per_item)
