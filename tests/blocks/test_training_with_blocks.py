"""Small models around every kind of layer: what one step is, and what thirty bring."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import weights_of
from keras import layers

from keras_proxprop import ProxProp
from keras_proxprop.reports.summary import layer_reports

VOCABULARY = 20


@keras.saving.register_keras_serializable(package="test")
class Attention(layers.Layer):
    """Self-attention, for `Sequential`."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def build(self, shape):
        self.attention.build(query_shape=shape, value_shape=shape)

    def call(self, x):
        return x + self.attention(x, x)


# The layers before the final one, the input shape, and the classes that must step implicitly.
MODELS = {
    "einsum": (
        lambda: [layers.EinsumDense("abc,cde->abde", (4, 2, 3), bias_axes="de")],
        (4, 5),
        {"EinsumDense": 1},
    ),
    "attention": (
        lambda: [Attention(layers.MultiHeadAttention(2, 3))],
        (4, 6),
        {"EinsumDense": 4},
    ),
    "grouped-query-attention": (
        lambda: [Attention(layers.GroupQueryAttention(3, 4, 2))],
        (4, 6),
        {"EinsumDense": 4},
    ),
    "batch-norm": (
        lambda: [layers.Dense(16), layers.BatchNormalization()],
        (8,),
        {"Dense": 1, "BatchNormalization": 1},
    ),
    "layer-norm": (
        lambda: [layers.Dense(16), layers.LayerNormalization()],
        (8,),
        {"Dense": 1, "LayerNormalization": 1},
    ),
    "group-norm-rms-norm": (
        lambda: [layers.GroupNormalization(2), layers.Dense(8), layers.RMSNormalization()],
        (3, 8),
        {"Dense": 1, "GroupNormalization": 1, "RMSNormalization": 1},
    ),
    "prelu": (lambda: [layers.PReLU(shared_axes=[1])], (3, 6), {"PReLU": 1}),
    "depthwise": (
        lambda: [layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")],
        (6, 6, 3),
        {"DepthwiseConv2D": 1},
    ),
    "separable": (
        lambda: [layers.SeparableConv2D(6, 3, depth_multiplier=2)],
        (6, 6, 3),
        {"SeparableConv2D": 2},
    ),
    "separable1d": (lambda: [layers.SeparableConv1D(6, 3)], (12, 4), {"SeparableConv1D": 2}),
    "transposed": (
        lambda: [layers.Conv2DTranspose(4, 3, strides=2, padding="same")],
        (3, 3, 3),
        {"Conv2DTranspose": 1},
    ),
    "embedding": (lambda: [layers.Embedding(VOCABULARY, 6)], (5,), {"Embedding": 1}),
    "simple-rnn": (lambda: [layers.SimpleRNN(8)], (6, 5), {"SimpleRNN": 1}),
    "lstm": (lambda: [layers.LSTM(6, return_sequences=True)], (6, 5), {"LSTM": 1}),
    "gru": (lambda: [layers.GRU(6)], (6, 5), {"GRU": 3}),
    "gru-reset-before": (
        lambda: [layers.GRU(6, reset_after=False, return_sequences=True)],
        (6, 5),
        {"GRU": 2},
    ),
    "bidirectional": (
        lambda: [layers.Bidirectional(layers.LSTM(4, unroll=True))],
        (6, 5),
        {"LSTM": 2},
    ),
    "stacked": (
        lambda: [layers.RNN([layers.GRUCell(5), layers.LSTMCell(4)])],
        (6, 5),
        {"GRUCell": 3, "LSTMCell": 1},
    ),
}


def model_of(name):
    """Returns a model in which all but a fixed final layer is trained."""
    make, shape, _ = MODELS[name]
    whole = [keras.Input(shape), *make(), layers.Activation("tanh"), layers.Flatten()]
    return keras.Sequential([*whole, layers.Dense(2, name="final", trainable=False)])


def task(name, count=64):
    """Returns a model, correlated inputs, and what another such model makes of them."""
    random = np.random.default_rng(1)
    shape = MODELS[name][1]
    if name == "embedding":
        # Some tokens are far more frequent than others.
        x = np.minimum(random.geometric(0.2, size=(count, *shape)), VOCABULARY) - 1
    else:
        x = random.normal(size=(count, *shape)) * np.geomspace(0.2, 3, shape[-1]) + 1
        if len(shape) > 1:
            # Neighbours are alike.
            for axis in range(1, len(shape)):
                x = np.cumsum(x, axis) / shape[axis - 1]
        x = x.astype("float32")
    keras.utils.set_random_seed(7)
    teacher = model_of(name)
    for weight in teacher.trainable_weights:
        weight.assign_add(random.normal(size=weight.shape, scale=0.1))
    keras.utils.set_random_seed(3)
    model = model_of(name)
    model.layers[-1].set_weights(teacher.layers[-1].get_weights())
    return model, x, teacher(x).numpy()


def losses_at(rates, model, x, y, inner, optimizer, **mode):
    """Returns the loss after thirty steps on the whole of the data, from the same start."""
    start = model.get_weights()
    # All steps in one call, which is quicker.
    model.compile(optimizer, loss="mse", steps_per_execution=30, **mode)
    data = tf.data.Dataset.from_tensors((x, y)).repeat(30)
    losses = []
    for rate in rates:
        model.set_weights(start)
        inner.learning_rate = rate
        model.fit(data, shuffle=False, verbose=0)
        losses.append(float(tf.reduce_mean((model(x, training=True) - y) ** 2)))
    model.set_weights(start)
    return losses


@pytest.mark.parametrize("name", MODELS)
def test_thirty_implicit_steps_end_below_plain_sgd_at_its_best_rate(name):
    model, x, y = task(name)
    sgd = keras.optimizers.SGD()
    explicit = losses_at((0.1, 0.3, 1.0, 3.0), model, x, y, sgd, sgd, jit_compile=False)
    optimizer = ProxProp(sgd, tau=1000.0, memory=None)
    rates = 10.0, 30.0, 100.0, 300.0, 600.0
    implicit = losses_at(rates, model, x, y, sgd, optimizer, jit_compile=False)
    steps = {}
    for report in layer_reports(model, len(x)):
        if report.step == "implicit":
            steps[report.kind] = steps.get(report.kind, 0) + 1

    assert steps == MODELS[name][2]
    assert np.nanmin(implicit) < np.nanmin(explicit)


def step(model, x, y, solver="auto", **mode):
    """Makes one implicit step; returns what it added to every variable."""
    before = weights_of(model)
    sgd = keras.optimizers.SGD(10.0)
    optimizer = ProxProp(sgd, tau=10.0, memory=None, solver=solver)
    model.compile(optimizer, loss="mse", **mode)
    model.fit(x, y, batch_size=len(x), verbose=0)
    return [after - w for after, w in zip(weights_of(model), before)]


# Each cell is compiled in the tests of its kind; to compile all in a training takes a minute.
RECURRENT = "simple-rnn", "gru", "gru-reset-before", "bidirectional", "stacked"
# Other models have their equations compiled, which takes longest: here CG is.
WITH_CG = "einsum", "grouped-query-attention", "layer-norm", "group-norm-rms-norm", "lstm"


@pytest.mark.parametrize("name", [name for name in MODELS if name not in RECURRENT])
def test_a_step_is_the_same_under_xla(name):
    model, x, y = task(name)
    start = model.get_weights()
    solver = "cg" if name in WITH_CG else "auto"
    plain = step(model, x, y, solver, run_eagerly=True)
    model.set_weights(start)
    compiled = step(model, x, y, solver, jit_compile=True)
    for a, b in zip(compiled, plain):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())
    assert any(np.abs(b).max() > 0 for b in plain)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_in_mixed_precision_is_nearly_the_same(name):
    model, x, y = task(name)
    start = model.get_weights()
    single = step(model, x, y, run_eagerly=True)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = model_of(name)
    finally:
        keras.config.set_dtype_policy("float32")
    half.set_weights(start)
    mixed = step(half, x, y, run_eagerly=True)
    for a, b in zip(mixed, single):
        assert np.abs(a - b).max() <= 0.05 * np.abs(b).max() + 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_a_frozen_layer_stays_as_it_is(name):
    model, x, y = task(name)
    added = keras.Sequential([keras.Input(x.shape[1:]), *model.layers[:-2], layers.Flatten()])
    for layer in added.layers[:-1]:
        layer.trainable = False
    added.add(layers.Dense(3, "tanh"))
    added.add(layers.Dense(2))
    steps = dict(zip((w.path for w in added.weights), step(added, x, y, run_eagerly=True)))
    for weight in added.weights:
        moved = np.abs(steps[weight.path]).max() > 0
        assert moved == (weight.path in [w.path for w in added.trainable_weights])
