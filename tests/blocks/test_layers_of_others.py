"""Layers of the forms that other packages write, by `register_block` in one line."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close
from keras import layers, ops

import keras_proxprop
from keras_proxprop import ImplicitGradientTape, ProxProp, blocks
from keras_proxprop.reports.summary import layer_reports

TAU = 0.5


class RootMeanSquare(layers.Layer):
    """A normalization with a scale only, as language models have it."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x):
        x = ops.cast(x, "float64" if keras.config.floatx() == "float64" else "float32")
        root = ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6)
        return x * root * self.scale


class RelativeBias(layers.Layer):
    """Attention scores, and a trained number per head and distance added to them."""

    def build(self, shape):
        self.length = shape[-1]
        self.table = self.add_weight(shape=(2 * shape[-1] - 1, shape[1]), name="table")

    def call(self, scores):
        places = np.arange(self.length)
        distances = places[None, :] - places[:, None] + self.length - 1
        bias = ops.take(self.table, distances, axis=0)
        return scores + ops.transpose(bias, (2, 0, 1))[None]


class Experts(layers.Layer):
    """A bank of linear experts, and a share of each for every item."""

    def build(self, shape):
        width = shape[0][-1]
        self.kernel = self.add_weight(shape=(shape[1][-1], width, 3), name="kernel")
        self.bias = self.add_weight(shape=(shape[1][-1], 3), name="bias")

    def call(self, inputs):
        x, shares = inputs
        return ops.einsum("bi,be,eio->bo", x, shares, self.kernel) + ops.matmul(
            shares, self.bias
        )


RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(6, 4))
SCORES = RANDOM.normal(size=(2, 3, 4, 4))
SHARES = RANDOM.uniform(size=(6, 2))


def normalized(x):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def rows_of_scales():
    """One row for every number of the output, all of them zero but in its channel."""
    return np.concatenate([np.diag(row) for row in normalized(X)])


def rows_of_distances():
    a = np.zeros((2, 3, 4, 4, 7, 3))
    for b, head, i, j in np.ndindex(2, 3, 4, 4):
        a[b, head, i, j, j - i + 3, head] = 1
    return a.reshape(-1, 21)


def rows_of_experts():
    kernel = np.einsum("bi,be,op->boeip", X, SHARES, np.eye(3)).reshape(18, -1)
    bias = np.einsum("be,op->boep", SHARES, np.eye(3)).reshape(18, -1)
    return np.concatenate([kernel, bias], axis=1)


CASES = {
    "root mean square": (RootMeanSquare, [X], rows_of_scales),
    "relative bias": (RelativeBias, [SCORES], rows_of_distances),
    "experts": (Experts, [X, SHARES], rows_of_experts),
}


@pytest.fixture(params=CASES)
def case(request):
    layer_class, inputs, rows = CASES[request.param]
    keras_proxprop.register_block(layer_class)
    yield layer_class, inputs, rows
    del blocks._BLOCKS[layer_class]


def built(layer_class, inputs):
    keras.utils.set_random_seed(0)
    layer = layer_class()
    given = [keras.Input(x.shape[1:]) for x in inputs]
    z = layer(given if len(given) > 1 else given[0])
    outputs = layers.Dense(2)(layers.Flatten()(ops.tanh(z)))
    return keras.Model(given, outputs), layer


@pytest.mark.parametrize("solver", ["exact", keras_proxprop.solvers.ConjugateGradient(60)])
def test_its_direction_solves_the_problem(float64, case, solver):
    layer_class, inputs, rows = case
    model, layer = built(layer_class, inputs)
    tensors = [tf.constant(x) for x in inputs]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(tensors) ** 2)
    gradient = tape.gradient(loss, [w.value for w in layer.trainable_weights])
    gradient = np.concatenate([np.ravel(tf.convert_to_tensor(g)) for g in gradient])
    a = rows()
    expected = np.linalg.solve(a.T @ a + np.eye(a.shape[1]) / TAU, gradient)
    with ImplicitGradientTape(model, tau=TAU, solver=solver) as tape:
        loss = tf.reduce_sum(model(tensors) ** 2)
    found = tape.gradient(loss, layer.trainable_weights)
    assert_close(np.concatenate([np.ravel(p) for p in found]), expected, 1e-7)


def test_it_trains(case):
    layer_class, inputs, _ = case
    model, layer = built(layer_class, inputs)
    report = {r.name: r for r in layer_reports(model, 6)}[layer.name]
    assert report.step == "implicit"
    model.compile(ProxProp(), loss="mse", jit_compile=False)
    y = np.zeros([len(inputs[0]), 2])
    history = model.fit([x.astype("float32") for x in inputs], y, epochs=5, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
