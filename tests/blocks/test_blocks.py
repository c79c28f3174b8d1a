"""Every block's rows `A`, and the products made from them, in one table of cases.

A layer is linear in its weights, so `A` is the Jacobian of its output with respect to
them; automatic differentiation of the Keras layer itself says what that is.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, record_call
from keras.layers import Conv1D, Conv2D, Conv3D, Dense

from keras_proxprop import xla
from keras_proxprop.blocks import find_block
from keras_proxprop.rows.stacked import StackedRows

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


@functools.cache
def case(name):
    return Case(name)


@pytest.mark.parametrize("for_cpu", [False, True], ids=["", "as-for-xla-on-cpu"])
@pytest.mark.parametrize("name", CASES)
def test_rows_are_the_jacobian_and_products_are_its_products(name, for_cpu, monkeypatch):
    monkeypatch.setattr(xla, "for_cpu", lambda: for_cpu)
    c = case(name)
    assert c.reason is None
    c.check(c.everything(c.inputs, c.p, c.d))


@pytest.mark.parametrize("name", CASES)
def test_block_computes_what_its_layer_computes(name):
    c = case(name)
    z, uses = record_call(c.block, c.inputs)
    assert_close(z, c.layer(c.inputs), EXACT)
    assert uses[0].inputs is c.inputs and uses[0].z is z
    assert [w.path for w in c.block.weights] == [w.path for w in c.layer.trainable_weights]


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("name", TRACED)
def test_rows_are_the_same_where_no_size_is_known_at_trace_time(name, jit_compile):
    c = case(name)
    unknown = [None] * (c.inputs.shape.rank - 1) + [c.inputs.shape[-1]]
    signature = [
        tf.TensorSpec(unknown, tf.float64),
        tf.TensorSpec([c.a.shape[1], COLUMNS], tf.float64),
        tf.TensorSpec([None, COLUMNS], tf.float64),
    ]
    traced = tf.function(c.everything, input_signature=signature, jit_compile=jit_compile)
    c.check(traced(c.inputs, c.p, c.d))


@pytest.mark.parametrize("name", ["dense", "dense-rank3", "conv2d-same", "conv1d-causal"])
def test_rows_of_several_calls_are_stacked(name):
    c = case(name)
    rows = StackedRows([c.rows(), c.rows(c.inputs[:1])])
    few = len(c.a) // len(c.inputs)
    a = np.concatenate([c.a, c.a[:few]])
    d = np.concatenate([c.d, c.d[:few]])
    assert rows.count == len(a)
    assert_close(written_out(rows), a, EXACT)
    assert_close(rows.gram(), a.T @ a, EXACT)
    assert_close(rows.multiply(c.direction(c.p)), a @ c.p, EXACT)
    assert_close(tf.concat(rows.multiply_transposed(d), 0), a.T @ d, EXACT)
    gram, product = rows.equations_in_float64(d)
    assert_close(gram, a.T @ a, EXACT)
    assert_close(tf.concat(product, 0), a.T @ d, EXACT)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_correlation_gram_is_exact_on_random_shapes(order):
    random = np.random.default_rng(order)
    for _ in range({1: 30, 2: 25, 3: 10}[order]):
        layer, shape = random_convolution(random, order)
        inputs = tf.constant(random.normal(size=shape))
        a = convolved_patches(layer, inputs)
        rows = find_block(layer)[0].rows(inputs, bias=True)
        what = f"{layer.get_config()} on {shape}"
        np.testing.assert_allclose(
            rows._correlation_gram(),
            a.T @ a,
            atol=1e-10,
            err_msg=what,
        )
        a = np.concatenate([a, np.ones([len(a), 1])], axis=1)
        np.testing.assert_allclose(rows.gram(), a.T @ a, atol=1e-10, err_msg=what)


def random_convolution(random, order):
    """Returns a convolution and an input shape that leaves it at least one window."""
    longest = {1: 6, 2: 5, 3: 3}[order]
    kernel = random.integers(1, longest, order, endpoint=True)
    strides = dilation = np.ones(order, int)
    kind = random.choice(["plain", "strided", "dilated"])
    if kind == "strided":
        strides = random.integers(1, 3, order, endpoint=True)
        if order == 1 or random.random() < 0.5:
            strides[:] = strides[0]
    elif kind == "dilated":
        dilation = random.integers(1, 3, order, endpoint=True)
    padding = random.choice(["same", "valid"] + ["causal"] * (order == 1))
    least = (kernel - 1) * dilation + 1 if padding == "valid" else 1
    lengths = random.integers(least, np.asarray(least) + longest, endpoint=True)
    lengths = np.broadcast_to(lengths, [order])
    layer = [Conv1D, Conv2D, Conv3D][order - 1](
        1,
        kernel_size=tuple(map(int, kernel)),
        strides=tuple(map(int, strides)),
        dilation_rate=tuple(map(int, dilation)),
        padding=str(padding),
        use_bias=False,
        dtype="float64",
    )
    return layer, (2, *map(int, lengths), int(random.integers(1, 3)))


def convolved_patches(layer, inputs):
    """Returns the patches: what Keras's convolution makes with one filter per tap."""
    layer.filters = int(np.prod(layer.kernel_size)) * inputs.shape[-1]
    layer.build(inputs.shape)
    layer.kernel.assign(np.eye(layer.filters).reshape(layer.kernel.shape))
    return np.reshape(layer(inputs), [-1, layer.filters])


EXPLICIT = {
    "channels-first": Conv2D(2, 1, data_format="channels_first"),
    "nonlinear": keras.layers.Attention(use_scale=True),
}


@pytest.mark.parametrize("name", EXPLICIT)
def test_layer_without_a_block_says_why(name):
    block, why = find_block(EXPLICIT[name])
    assert block is None
    assert why
