"""Every block's rows `A`, and the products made from them, in one table of cases.

A layer is linear in its weights, so `A` is the Jacobian of its output with respect to
them; automatic differentiation of the Keras layer itself says what that is.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from block_cases import CASES, COLUMNS, EXACT, TRACED, Case, written_out
from helpers import assert_close, record_call
from keras.layers import Conv1D, Conv2D, Conv3D

from keras_proxprop import xla
from keras_proxprop.blocks import find_block
from keras_proxprop.rows.stacked import StackedRows


@functools.cache
def case(name):
    return Case(name)


@pytest.mark.parametrize("name", CASES)
def test_rows_are_the_jacobian_and_products_are_its_products(name):
    c = case(name)
    assert c.reason is None
    c.check(c.everything(c.inputs, c.p, c.d))


@pytest.mark.parametrize("name", [name for name in CASES if "conv" in name])
def test_rows_are_the_same_as_xla_makes_them_on_a_cpu(name, monkeypatch):
    monkeypatch.setattr(xla, "for_cpu", lambda: True)
    c = case(name)
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
