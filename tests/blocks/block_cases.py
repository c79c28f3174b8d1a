"""The table of blocks whose weights are matrices with the output columns last."""

import numpy as np
import tensorflow as tf
from helpers import assert_close
from keras.layers import Conv1D, Conv2D, Conv3D, Dense

from keras_proxprop.blocks import find_block

EXACT = 1e-11
# A new block, or a new way through one, is a row here: layer, its arguments, input shape.
CASES = {
    "dense": (Dense, {}, (5, 3)),
    "dense-no-bias": (Dense, {"use_bias": False}, (2, 6)),
    "dense-rank3": (Dense, {}, (2, 3, 4)),
    "dense-rank4-no-bias": (Dense, {"use_bias": False}, (2, 2, 2, 3)),
    "conv1d-valid": (Conv1D, {"kernel_size": 3}, (2, 6, 2)),
    "conv1d-same-even": (Conv1D, {"kernel_size": 4, "padding": "same"}, (2, 5, 2)),
    "conv1d-same-stride2": (
        Conv1D,
        {"kernel_size": 3, "padding": "same", "strides": 2, "use_bias": False},
        (2, 7, 2),
    ),
    "conv1d-causal": (Conv1D, {"kernel_size": 3, "padding": "causal"}, (2, 5, 2)),
    "conv1d-causal-dilated": (
        Conv1D,
        {"kernel_size": 3, "padding": "causal", "dilation_rate": 2},
        (2, 4, 2),
    ),
    "conv1d-causal-stride2": (
        Conv1D,
        {"kernel_size": 3, "padding": "causal", "strides": 2},
        (2, 6, 1),
    ),
    "conv2d-valid": (Conv2D, {"kernel_size": 2}, (2, 4, 3, 2)),
    "conv2d-same": (Conv2D, {"kernel_size": 3, "padding": "same"}, (2, 4, 5, 2)),
    "conv2d-same-even": (
        Conv2D,
        {"kernel_size": (2, 4), "padding": "same", "use_bias": False},
        (2, 3, 5, 2),
    ),
    "conv2d-same-smaller-than-kernel": (
        Conv2D,
        {"kernel_size": 5, "padding": "same"},
        (3, 2, 3, 1),
    ),
    "conv2d-same-dilated": (
        Conv2D,
        {"kernel_size": 3, "padding": "same", "dilation_rate": 2},
        (2, 5, 4, 1),
    ),
    "conv2d-valid-dilated": (
        Conv2D,
        {"kernel_size": (2, 3), "dilation_rate": (3, 1)},
        (2, 5, 4, 2),
    ),
    "conv2d-valid-stride2": (Conv2D, {"kernel_size": 3, "strides": 2}, (2, 6, 5, 2)),
    "conv2d-same-stride2x3": (
        Conv2D,
        {"kernel_size": (3, 5), "padding": "same", "strides": (2, 3)},
        (2, 5, 7, 1),
    ),
    "conv2d-kernel1": (Conv2D, {"kernel_size": 1}, (2, 2, 3, 3)),
    "conv2d-kernel1-stride2": (
        Conv2D,
        {"kernel_size": 1, "strides": 2, "padding": "same", "use_bias": False},
        (2, 3, 4, 3),
    ),
    "conv3d-valid": (Conv3D, {"kernel_size": 2}, (2, 3, 2, 3, 2)),
    "conv3d-same": (
        Conv3D,
        {"kernel_size": (1, 3, 2), "padding": "same", "use_bias": False},
        (2, 2, 3, 2, 1),
    ),
    "conv3d-same-stride2": (
        Conv3D,
        {"kernel_size": (3, 2, 1), "padding": "same", "strides": (2, 1, 2)},
        (1, 4, 2, 3, 2),
    ),
}
# One for every way through the Gram matrix and the products: tracing takes its time.
TRACED = [
    "dense-rank3",
    "conv1d-causal-dilated",
    "conv2d-same-smaller-than-kernel",
    "conv2d-same-stride2x3",
    "conv3d-same-stride2",
]
COLUMNS = 2


class Case:
    """A built layer with its block, random inputs, and the `A` that they make."""

    def __init__(self, name):
        layer_class, arguments, shape = CASES[name]
        random = np.random.default_rng(len(name))
        self.layer = layer_class(COLUMNS, dtype="float64", **arguments)
        self.inputs = tf.constant(random.normal(size=shape))
        self.layer.build(shape)
        self.layer.set_weights([random.normal(size=w.shape) for w in self.layer.weights])
        self.block, self.reason = find_block(self.layer)
        self.a = jacobian(self.layer, self.inputs)
        self.p = random.normal(size=(self.a.shape[1], COLUMNS))
        self.d = random.normal(size=(self.a.shape[0], COLUMNS))

    def rows(self, inputs=None):
        inputs = self.inputs if inputs is None else inputs
        return self.block.rows(inputs, self.layer.use_bias)

    def direction(self, p):
        """Returns `[features, columns]` as rows take it: the kernel's part, the bias's."""
        return [p[:-1], p[-1:]] if self.layer.use_bias else [p]

    def everything(self, inputs, p, d):
        """Returns all that rows can say, with `expected` what it must be."""
        rows = self.rows(inputs)
        gram_in_float64, product_in_float64 = rows.equations_in_float64(d)
        said = {
            "count": tf.convert_to_tensor(rows.count),
            "matrix": written_out(rows),
            "outer": rows.matrix().outer(),
            "product": rows.multiply(self.direction(p)),
            "transposed product": tf.concat(rows.multiply_transposed(d), 0),
            "gram": rows.gram(),
            "trace": rows.trace(),
            "patch gram": rows.matrix().gram(),
            "gram in float64": gram_in_float64,
            "transposed product in float64": tf.concat(product_in_float64, 0),
        }
        if hasattr(rows, "_correlation_gram"):
            said["correlation gram"] = rows._correlation_gram()
        return said

    @property
    def expected(self):
        a, kernel = self.a, self.a.shape[1] - self.layer.use_bias
        return {
            "count": a.shape[0],
            "matrix": a,
            "outer": a @ a.T,
            "product": a @ self.p,
            "transposed product": a.T @ self.d,
            "gram": a.T @ a,
            "trace": np.trace(a.T @ a),
            "patch gram": a.T @ a,
            "gram in float64": a.T @ a,
            "transposed product in float64": a.T @ self.d,
            "correlation gram": (a.T @ a)[:kernel, :kernel],
        }

    def check(self, said, tolerance=EXACT):
        for what, value in said.items():
            # The name is part of what a failure shows.
            assert (what, np.shape(value)) == (what, np.shape(self.expected[what]))
            assert_close(value, self.expected[what], tolerance)


def jacobian(layer, inputs):
    """Returns `∂ layer(inputs) / ∂ weights` of one output column, `[rows, features]`."""
    with tf.GradientTape(persistent=True) as tape:
        z = tf.reshape(layer(inputs), [-1, COLUMNS])
        entries = [[z[r, c] for r in range(z.shape[0])] for c in range(COLUMNS)]
    weights = [w.value for w in layer.weights]

    def derivative(entry):
        gradients = tape.gradient(entry, weights)
        return np.concatenate([tf.reshape(g, [-1, COLUMNS]) for g in gradients])

    full = np.array([[derivative(entry) for entry in column] for column in entries])
    for c, column in enumerate(full):
        # Column c of z depends on column c of the weights alone, in the same way for all c.
        np.testing.assert_array_equal(np.delete(column, c, axis=-1), 0)
        np.testing.assert_allclose(column[..., c], full[0, ..., 0], atol=1e-14)
    return full[0, ..., 0]


def written_out(rows):
    matrix = rows.matrix()
    ones = [tf.ones_like(matrix.x[:, :1])] if matrix.bias else []
    return tf.concat([matrix.x, *ones], axis=1)
