"""Every kind of layer, called twice or by two models, is one problem for fit and summary."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import MODES, assert_close, in_turns
from keras import layers

from keras_proxprop import ImplicitGradientTape, ProxProp
from keras_proxprop.keras_seams.unlisted_layers import layer_scale_classes
from keras_proxprop.reports.summary import layer_reports

(LayerScale,) = layer_scale_classes()
ROW, SEQUENCE, IMAGE, VOLUME = (4,), (5, 4), (4, 4, 4), (3, 3, 3, 4)
KINDS = {
    "dense": (lambda: layers.Dense(4), ROW),
    "einsum-dense": (lambda: layers.EinsumDense("bti,io->bto", (5, 4)), SEQUENCE),
    "einsum-dense-groups": (
        lambda: layers.EinsumDense("bti,tio->bto", (5, 4), bias_axes="to"),
        SEQUENCE,
    ),
    "conv-1d": (lambda: layers.Conv1D(4, 3, padding="causal"), SEQUENCE),
    "conv-2d": (lambda: layers.Conv2D(4, 3, padding="same"), IMAGE),
    "conv-2d-groups": (lambda: layers.Conv2D(4, 3, padding="same", groups=4), IMAGE),
    "conv-3d": (lambda: layers.Conv3D(4, 2, padding="same"), VOLUME),
    "depthwise": (lambda: layers.DepthwiseConv2D(3, padding="same"), IMAGE),
    "separable": (lambda: layers.SeparableConv1D(4, 3, padding="same"), SEQUENCE),
    "transposed": (lambda: layers.Conv2DTranspose(4, 3, padding="same"), IMAGE),
    "batch-normalization": (layers.BatchNormalization, ROW),
    "batch-normalization-images": (layers.BatchNormalization, IMAGE),
    "batch-normalization-no-scale": (lambda: layers.BatchNormalization(scale=False), ROW),
    "layer-normalization": (layers.LayerNormalization, SEQUENCE),
    "layer-normalization-no-offset": (lambda: layers.LayerNormalization(center=False), ROW),
    "group-normalization": (lambda: layers.GroupNormalization(2), IMAGE),
    "rms-normalization": (layers.RMSNormalization, SEQUENCE),
    "prelu": (layers.PReLU, ROW),
    "prelu-shared": (lambda: layers.PReLU(shared_axes=[1, 2]), IMAGE),
    "layer-scale": (lambda: LayerScale(0.5, 4), IMAGE),
    "simple-rnn": (lambda: layers.SimpleRNN(4, return_sequences=True), SEQUENCE),
    "lstm": (lambda: layers.LSTM(4, return_sequences=True), SEQUENCE),
    "gru": (lambda: layers.GRU(4, return_sequences=True), SEQUENCE),
    "bidirectional": (
        lambda: layers.Bidirectional(layers.GRU(2, return_sequences=True)),
        SEQUENCE,
    ),
    "time-distributed": (lambda: layers.TimeDistributed(layers.Dense(4)), SEQUENCE),
    "attention": (lambda: SelfAttention(), SEQUENCE),
    "embedding": (lambda: Lookup(layers.Embedding(9, 4)), SEQUENCE),
    "reversible-embedding": (lambda: Lookup(layers.ReversibleEmbedding(9, 4)), SEQUENCE),
}


class SelfAttention(layers.Layer):
    def build(self, shape):
        self.attention = layers.MultiHeadAttention(2, 3)
        self.attention.build(shape, shape)

    def call(self, x):
        return self.attention(x, x)


class Lookup(layers.Layer):
    """Looks up ids made of numbers."""

    def __init__(self, lookup):
        super().__init__()
        self.lookup = lookup

    def call(self, x):
        return keras.ops.mean(self.lookup(keras.ops.cast(keras.ops.abs(x), "int32")), axis=-2)


def twice(layer, shape):
    inputs = keras.Input(shape)
    first = layer(inputs)
    second = layer(keras.ops.tanh(first) + 1)
    outputs = layers.Dense(2)(layers.Flatten()(keras.ops.tanh(second)))
    return keras.Model(inputs, outputs)


def by_two_models(layer, shape):
    inner = keras.Sequential([keras.Input(shape), layer, layers.Activation("tanh")])
    inputs = keras.Input(shape)
    first, second = layer(inputs), inner(inputs)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(first + second)))


CALLED_TWICE = pytest.mark.parametrize("kind, build", in_turns(KINDS, [twice, by_two_models]))


def once(layer, shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layer(inputs))))


def total_rows(model):
    return {r.name: r.row_count for r in layer_reports(model, 6) if r.step == "implicit"}


@CALLED_TWICE
def test_summary_counts_the_rows_of_every_call(kind, build):
    make, shape = KINDS[kind]
    layer = make()
    single = total_rows(once(layer, shape))
    assert single
    both = total_rows(build(layer, shape))
    if kind == "reversible-embedding":
        assert both.keys() == single.keys()
        return
    assert {name: 2 * rows for name, rows in single.items()} == both


@CALLED_TWICE
def test_training_steps_on_it(kind, build):
    make, shape = KINDS[kind]
    layer = make()
    model = build(layer, shape)
    # One step takes longer to trace than to run.
    mode = MODES["graph" if build is twice else "eager"]
    model.compile(ProxProp(), loss="mse", **mode)
    x = np.random.default_rng(0).normal(size=(6, *shape)).astype("float32")
    before = [w.numpy() for w in layer.trainable_variables]
    model.train_on_batch(x, np.ones((6, 2)))
    after = [w.numpy() for w in layer.trainable_variables]
    assert all(np.isfinite(w).all() for w in after)
    assert any(np.any(a != b) for a, b in zip(after, before))


NORMALIZATION = [kind for kind in KINDS if "normalization" in kind]


@pytest.mark.parametrize("kind", NORMALIZATION)
def test_a_normalization_layer_called_twice_is_one_problem(float64, kind):
    """Against the Jacobian of both calls, one under the other."""
    make, shape = KINDS[kind]
    layer = make()
    inputs = [keras.Input(shape), keras.Input(shape)]
    outputs = [layer(x) for x in inputs]
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(outputs[0] * outputs[1])))
    random = np.random.default_rng(0)
    x = [tf.constant(random.normal(size=(3, *shape))) for _ in inputs]
    weights = layer.trainable_variables
    tau = 0.3

    def loss(x):
        return tf.reduce_sum(tf.sin(model(x, training=True)))

    with ImplicitGradientTape(model, tau) as tape:
        value = loss(x)
    ours = tape.gradient(value, weights)
    with tf.GradientTape() as tape:
        value = loss(x)
    gradient = tape.gradient(value, [w.value for w in weights])
    with tf.GradientTape() as tape:
        z = tf.reshape(tf.stack([layer(part, training=True) for part in x]), [-1])
    a = [np.reshape(j, [z.shape[0], -1]) for j in tape.jacobian(z, [w.value for w in weights])]
    a = np.concatenate(a, axis=1)
    g = np.concatenate([np.ravel(part) for part in gradient])
    expected = np.linalg.solve(a.T @ a + np.eye(len(g)) / tau, g)
    assert_close(np.concatenate([np.ravel(d) for d in ours]), expected, 1e-9)
