"""tau="auto": ten over the mean curvature of a layer, against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    MODES,
    assert_close,
    implicit_direction,
    in_turns,
    inputs_of,
    record_call,
    weights_of,
)

from keras_proxprop import ImplicitGradientTape, ProxProp, register_block
from keras_proxprop.blocks import find_block
from keras_proxprop.rows.base import Rows
from keras_proxprop.rows.groups import GroupedRows
from keras_proxprop.rows.matrix import MatrixRows
from keras_proxprop.rows.one_hot import OneHotRows
from keras_proxprop.rows.stacked import StackedRows
from keras_proxprop.rows.tied import TiedRows
from keras_proxprop.solvers import ConjugateGradient
from keras_proxprop.tau import Tau

L = keras.layers


def auto(a):
    """Returns ten over the mean diagonal entry of `AᵀA`."""
    return 10 / np.mean(np.diag(a.T @ a))


def dense_net():
    inputs = keras.Input((5,))
    x = L.Dense(4, "tanh", use_bias=False)(L.Dense(7, "tanh")(inputs))
    model = keras.Model(inputs, L.Dense(2)(x))
    random = np.random.default_rng(1)
    model.set_weights([random.normal(size=w.shape) for w in model.get_weights()])
    return model


@pytest.mark.parametrize("solver", ["exact", "cg"])
@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_every_layer_has_the_tau_of_its_own_rows(solver, scale, float64):
    model, x = dense_net(), np.random.default_rng(0).normal(size=(12, 5)) * scale
    solver = ConjugateGradient(20) if solver == "cg" else solver
    with ImplicitGradientTape(model, tau="auto", solver=solver) as implicit:
        loss = tf.reduce_mean(model(x) ** 2)
    directions = iter(implicit.gradient(loss, model.trainable_variables))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(x) ** 2)
    gradients = iter(tape.gradient(loss, [v.value for v in model.trainable_variables]))
    for layer in model.layers[1:-1]:
        own = [next(gradients) for _ in layer.trainable_variables]
        rows = inputs_of(layer, model, x)
        a = np.column_stack([rows, np.ones(len(rows))]) if layer.use_bias else rows
        for expected in implicit_direction([rows], own, auto(a)):
            assert_close(next(directions), expected, 1e-9)


@pytest.mark.parametrize("kind", ["plain", "bias", "groups", "stacked"])
def test_the_shift_of_a_gram_matrix_is_that_of_its_rows(kind):
    random = np.random.default_rng(2)
    x = random.normal(size=[3, 9, 4] if kind == "groups" else [9, 4])
    bias = kind != "plain"
    rows = (GroupedRows if kind == "groups" else MatrixRows)(tf.constant(x), bias)
    a = np.concatenate([x, np.ones_like(x[..., :1])], -1) if bias else x
    if kind == "stacked":
        rows, a = StackedRows([rows, rows]), np.concatenate([a, a])
    grams = [rows.gram()] if kind == "groups" else [rows.gram(), rows.matrix().outer()]
    mean = np.mean(np.diagonal(np.swapaxes(a, -1, -2) @ a, axis1=-2, axis2=-1))
    for gram in (None, *grams):
        assert_close(Tau("auto").shift(rows, gram), 0.1 * mean, 1e-9)
        # A number, and a tensor that may be one of a schedule.
        for tau in (0.3, tf.constant(0.3, tf.float64)):
            assert_close(Tau(tau).shift(rows, gram), 1 / 0.3, 1e-12)


def jacobian(layer, x):
    with tf.GradientTape() as tape:
        z = tf.reshape(layer(x), [-1])
    parts = tape.jacobian(z, [v.value for v in layer.trainable_variables])
    return np.concatenate([np.reshape(p, (len(z), -1)) for p in parts], axis=1)


TRACES = {
    "dense": (lambda: L.Dense(3), (4, 5)),
    "conv-strided": (lambda: L.Conv2D(3, 3, 2, padding="same"), (2, 7, 6, 2)),
    "conv-dilated": (lambda: L.Conv2D(2, 3, dilation_rate=2), (2, 7, 6, 2)),
    "transposed": (lambda: L.Conv1DTranspose(3, 3, 2, padding="same"), (2, 6, 2)),
    "depthwise": (lambda: L.DepthwiseConv2D(3, depth_multiplier=2), (2, 5, 5, 3)),
    "layer-norm": (lambda: L.LayerNormalization(), (6, 4)),
}


@pytest.mark.parametrize("name", TRACES)
def test_the_trace_is_that_of_the_rows(name, float64):
    make, shape = TRACES[name]
    layer, x = make(), tf.constant(np.random.default_rng(3).normal(size=shape))
    layer.build(shape)
    block = find_block(layer)[0]
    _, uses = record_call(block, x)
    rows = block.rows(block.prepare(uses[0].inputs), len(block.weights) == 2)
    # Every output column has the same rows: the whole Jacobian's trace is theirs, summed.
    whole = np.sum(jacobian(layer, x) ** 2) / block.columns
    assert_close(float(rows.trace()), whole, 1e-11)


def test_the_trace_of_groups_is_their_mean(float64):
    # TensorFlow has no gradient of these on CPU; their Gram matrices are tested elsewhere.
    layer, x = (
        L.Conv1D(4, 3, groups=2),
        tf.constant(np.random.default_rng(3).normal(size=(2, 6, 4))),
    )
    layer.build(x.shape)
    rows = find_block(layer)[0].rows(x, True)
    assert_close(float(rows.trace()), np.mean(np.trace(rows.gram(), axis1=1, axis2=2)), 1e-11)


def test_the_trace_of_lookups_and_projections_of_one_matrix(float64):
    random = np.random.default_rng(5)
    lookups = OneHotRows(tf.constant([1, 4, 1]), 5, tf.float64)
    states = MatrixRows(tf.constant(random.normal(size=(6, 3))), False)
    rows = TiedRows([lookups, states], (5, 3))
    units = np.eye(15).reshape(15, 5, 3)
    squares = [np.sum(rows.multiply([tf.constant(unit)]).numpy() ** 2) for unit in units]
    assert_close(float(rows.trace()), np.sum(squares), 1e-12)


def test_all_rows_have_a_trace():
    def below(rows):
        return {rows}.union(*map(below, rows.__subclasses__()))

    assert all(rows.trace is not Rows.trace for rows in below(Rows) - {Rows} if _ours(rows))


def _ours(rows):
    return rows.__module__.startswith("keras_proxprop")


def test_the_trace_of_a_generic_block_is_right_in_scale():
    class Scale(L.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=shape[1:])

        def call(self, x):
            return x * self.w

    register_block(Scale)
    layer, x = Scale(), tf.random.normal([50, 40], seed=1)
    layer.build(x.shape)
    block = find_block(layer)[0]
    _, (use,) = record_call(block, x)
    rows = block.rows(block.prepare(use.inputs), False)
    assert 0.5 < float(rows.trace()) / float(tf.reduce_sum(x**2)) < 2


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_an_all_zero_batch_changes_nothing_and_is_finite(mode):
    model = keras.Sequential([keras.Input((5,)), L.Dense(4, use_bias=False), L.Dense(2)])
    model.compile(ProxProp("sgd", 1.0), loss="mse", **MODES[mode])
    kernel = model.layers[0].kernel.numpy()
    model.fit(np.zeros((8, 5)), np.ones((8, 2)), verbose=0)
    np.testing.assert_array_equal(model.layers[0].kernel, kernel)
    assert all(np.isfinite(w).all() for w in weights_of(model))


def test_it_is_in_the_config_and_cannot_be_assigned():
    optimizer = ProxProp.from_config(ProxProp().get_config())
    assert optimizer.tau == "auto" and "tau='auto'" in repr(optimizer)
    for given, assigned in (("auto", 1.0), (1.0, "auto")):
        with pytest.raises(TypeError, match="assigned only a number"):
            ProxProp(tau=given).tau = assigned
    with pytest.raises(TypeError, match="`tau` must be .* Received: tau='automatic'"):
        ProxProp(tau="automatic")


NETS = {
    "dense": lambda: [L.Flatten(), L.Dense(32, "relu"), L.Dense(32, "tanh")],
    "convolution": lambda: [L.Conv2D(8, 3, activation="relu"), L.Flatten()],
    "normalized": lambda: [L.Conv2D(8, 3), L.BatchNormalization(), L.ReLU(), L.Flatten()],
    "recurrent": lambda: [L.Reshape((8, 8)), L.LSTM(16)],
}


@pytest.mark.parametrize(
    "net, how", in_turns(NETS, [("sgd", 255.0), ("sgd", 0.01), (None, 255.0)], rounds=2)
)
def test_it_trains_where_a_tau_of_one_does(net, how):
    inner, scale = how
    random = np.random.default_rng(0)
    x = (random.normal(size=(256, 8, 8, 1)) * scale).astype("float32")
    y = (x[:, :4].sum((1, 2, 3)) > 0) * 1 + (x[:, 4:].sum((1, 2, 3)) > 0)

    def loss(tau):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((8, 8, 1)), *NETS[net](), L.Dense(3)])
        rate = 1.0 if inner else None
        crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(ProxProp(inner, rate, tau=tau), crossentropy, jit_compile=False)
        return model.fit(x, y, batch_size=8, epochs=2, verbose=0).history["loss"][-1]

    # Neither of the two is always the lower one: what is not allowed is to diverge.
    assert loss("auto") <= 2 * loss(1.0)
