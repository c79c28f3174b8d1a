"""A tape beside others, around others, and within others: each returns what is its own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import implicit_direction
from keras import layers

from keras_proxprop import (
    CurvatureMemory,
    ImplicitGradientTape,
    ProxProp,
    register_block,
    solvers,
)

pytestmark = pytest.mark.usefixtures("float64")

TAU = 0.5
WRAPS = {"eager": lambda f: f, "graph": tf.function}


@keras.saving.register_keras_serializable(package="tests")
class OwnLinear(layers.Layer):
    """A layer of a user's, with the block that any layer can have."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 2))

    def call(self, x):
        return tf.matmul(x, tf.convert_to_tensor(self.w))


register_block(OwnLinear)
TOKENS = np.array([[1, 0, 2], [2, 2, 4]])

# One layer for every way in which a block hides its weights, and the inputs' shape.
KINDS = {
    "dense": (lambda: layers.Dense(3, "tanh"), (4, 3)),
    "dense-frozen-bias": (lambda: frozen_bias(layers.Dense(3, "tanh")), (4, 3)),
    "einsum": (lambda: layers.EinsumDense("abc,cd->abd", (3, 2), bias_axes="d"), (2, 3, 2)),
    "convolution": (lambda: layers.Conv1D(2, 2, activation="tanh"), (2, 4, 2)),
    "depthwise": (lambda: layers.DepthwiseConv1D(2), (2, 4, 2)),
    "separable": (lambda: layers.SeparableConv1D(3, 2), (2, 4, 2)),
    "transposed": (lambda: layers.Conv1DTranspose(2, 2, strides=2), (2, 3, 2)),
    "embedding": (lambda: layers.Embedding(5, 2), TOKENS),
    "reversible-embedding": (lambda: layers.ReversibleEmbedding(5, 2), TOKENS),
    "simple-rnn": (lambda: layers.SimpleRNN(2), (2, 3, 2)),
    "lstm": (lambda: layers.LSTM(2), (2, 3, 2)),
    "gru": (lambda: layers.GRU(2), (2, 3, 2)),
    "gru-reset-before": (lambda: layers.GRU(2, reset_after=False), (2, 3, 2)),
    "batch-norm": (lambda: layers.BatchNormalization(), (4, 3)),
    "layer-norm": (lambda: layers.LayerNormalization(), (4, 3)),
    "prelu": (lambda: layers.PReLU(), (4, 3)),
    "own": (lambda: OwnLinear(), (4, 3)),
    "attention": (lambda: SelfAttention(), (2, 3, 2)),
}


class SelfAttention(layers.Layer):
    def build(self, shape):
        self.inner = layers.MultiHeadAttention(2, 2, use_bias=False)
        self.inner.build(shape, shape)

    def call(self, x):
        return self.inner(x, x)


def frozen_bias(layer):
    layer.build((None, 3))
    layer.bias.trainable = False
    return layer


class Net:
    """A layer of some kind and a Dense layer, with a loss that is not a square."""

    def __init__(self, kind):
        keras.utils.set_random_seed(0)
        make, shape = KINDS[kind]
        random = np.random.default_rng(0)
        tokens = not isinstance(shape, tuple)
        self.x = tf.constant(shape if tokens else random.normal(size=shape))
        self.last = layers.Dense(2, "tanh")
        self.model = keras.Sequential([make(), layers.Flatten(), self.last])
        self.model(self.x)
        self.weights = self.model.trainable_variables
        for v in self.weights:
            v.assign(0.5 * random.normal(size=v.shape))
        self.sources = self.weights if tokens else [*self.weights, self.x]

    def loss(self):
        y = self.model(self.x, training=True)
        return tf.reduce_mean(y**2 + tf.sin(3 * y))


def arrays(values):
    return [None if v is None else tf.convert_to_tensor(v).numpy() for v in values]


def assert_all_close(actual, expected, tolerance=1e-10):
    assert len(actual) == len(expected)
    for a, e in zip(arrays(actual), arrays(expected)):
        assert (a is None) == (e is None)
        if e is not None:
            np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance * abs(e).max())


def alone(net, make):
    with make() as tape:
        tape.watch(net.x)
        loss = net.loss()
    return tape.gradient(loss, net.sources)


def implicit(net, **options):
    return ImplicitGradientTape(
        net.model, **{"tau": TAU, "final_layer": "implicit", **options}
    )


@pytest.mark.parametrize("order", ["outside", "inside"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tape_of_tensorflow_has_its_gradients_and_ours_its_directions(kind, order):
    net = Net(kind)
    tapes = [tf.GradientTape(), implicit(net)]
    with tapes[order == "inside"] as outer, tapes[order == "outside"] as inner:
        outer.watch(net.x)
        inner.watch(net.x)
        loss = net.loss()
    plain, own = (tape.gradient(loss, net.sources) for tape in tapes)
    assert_all_close(plain, alone(net, tf.GradientTape))
    assert_all_close(own, alone(net, lambda: implicit(net)))
    assert not np.allclose(arrays(own)[0], arrays(plain)[0])


@pytest.mark.parametrize("kind", ["dense", "embedding", "lstm", "batch-norm"])
def test_a_tape_of_tensorflow_has_its_gradients_in_a_graph(kind):
    net = Net(kind)

    @tf.function
    def step():
        with tf.GradientTape() as outer, implicit(net) as own, tf.GradientTape() as inner:
            for tape in (outer, own, inner):
                tape.watch(net.x)
            loss = net.loss()
        return [tape.gradient(loss, net.sources) for tape in (outer, own, inner)]

    outer, own, inner = step()
    assert_all_close(outer, alone(net, tf.GradientTape))
    assert_all_close(inner, alone(net, tf.GradientTape))
    assert_all_close(own, alone(net, lambda: implicit(net)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_penalty_on_weight_gradients_is_part_of_the_direction(kind):
    # With a tiny tau a direction is tau times the whole gradient.
    net, tau = Net(kind), 1e-9

    def penalized(tape):
        with tape:
            with tf.GradientTape() as inner:
                loss = net.loss()
            gradients = inner.gradient(loss, net.weights)
            total = loss + tf.add_n(
                [tf.reduce_sum(tf.convert_to_tensor(g) ** 2) for g in gradients]
            )
        return arrays(tape.gradient(total, net.weights))

    expected = penalized(tf.GradientTape())
    actual = penalized(implicit(net, tau=tau, solver="exact"))
    assert_all_close([a / tau for a in actual], expected, 1e-6)


JACOBIANS = [(kind, True) for kind in KINDS] + [("dense", False), ("lstm", False)]


@pytest.mark.parametrize("kind, parallel", JACOBIANS)
def test_jacobians_are_those_of_the_function(kind, parallel):
    net = Net(kind)

    def jacobians(tape):
        with tape:
            tape.watch(net.x)
            y = net.model(net.x, training=True)
        return tape.jacobian(y, net.sources, experimental_use_pfor=parallel)

    expected = jacobians(tf.GradientTape(persistent=True))
    assert_all_close(jacobians(implicit(net, persistent=True)), expected)


@pytest.mark.parametrize("wrap", WRAPS)
def test_two_tapes_over_one_model_have_each_its_own_directions(wrap):
    net = Net("dense")
    first = lambda: implicit(net)  # noqa: E731
    second = lambda: implicit(net, tau=0.01, exclude=[net.last], final_layer="explicit")  # noqa: E731

    @WRAPS[wrap]
    def step():
        with first() as a, second() as b:
            a.watch(net.x)
            b.watch(net.x)
            loss = net.loss()
        return a.gradient(loss, net.sources), b.gradient(loss, net.sources)

    a, b = step()
    assert_all_close(a, alone(net, first))
    assert_all_close(b, alone(net, second))


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_tape_over_one_model_has_the_gradients_of_another(wrap):
    net, other = Net("dense"), Net("convolution")

    @WRAPS[wrap]
    def step():
        with implicit(net) as a, implicit(other) as b:
            a.watch([net.x, other.x])
            loss = net.loss() * other.loss() + other.loss()
            b.watch([net.x, other.x])
        return a.gradient(loss, net.sources + other.sources)

    with tf.GradientTape() as tape:
        tape.watch([net.x, other.x])
        loss = net.loss() * other.loss() + other.loss()
    expected = arrays(tape.gradient(loss, net.sources + other.sources))
    expected[:2] = implicit_direction([net.x], expected[:2], TAU)
    hidden = tf.tanh(net.x @ net.weights[0] + net.weights[1])
    expected[2:4] = implicit_direction([hidden], expected[2:4], TAU)
    assert_all_close(step(), expected)


# Directions are functions of the weights and the inputs, with derivatives of their own.


def slope(f, sources, step=1e-5):
    """Returns by how much `f` changes in a random direction of all sources, and these."""
    random = np.random.default_rng(1)
    along = [random.normal(size=v.shape) for v in sources]
    before, ends = [v.numpy() for v in sources], []
    for sign in (1, -1, 0):
        for v, b, a in zip(sources, before, along):
            v.assign(b + sign * step * a)
        if sign:
            ends.append(float(f()))
    return (ends[0] - ends[1]) / (2 * step), along


SOLVERS = {
    "auto": "auto",
    "primal": solvers.Exact("primal"),
    "dual": solvers.Exact("dual"),
    "cg": solvers.ConjugateGradient(30),
}
SECOND = [("dense", s) for s in SOLVERS] + [
    (kind, "auto") for kind in ("convolution", "layer-norm", "batch-norm", "prelu", "gru")
]


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("kind, solver", SECOND, ids=["-".join(s) for s in SECOND])
def test_a_tape_of_tensorflow_differentiates_a_direction(kind, solver, wrap):
    net = Net(kind)
    net.x, tau = tf.Variable(net.x), tf.Variable(TAU, dtype="float64")

    def value():
        options = {"tau": "auto"} if solver == "auto" else {"tau": tau}
        with implicit(net, solver=SOLVERS[solver], **options) as tape:
            loss = net.loss()
        directions = tape.gradient(loss, net.weights)
        return loss + tf.add_n([tf.reduce_sum(tf.sin(d)) for d in directions])

    @WRAPS[wrap]
    def second():
        with tf.GradientTape() as outer:
            total = value()
        return outer.gradient(total, sources)

    sources = [*net.weights, net.x] + [tau] * (solver != "auto")
    expected, along = slope(value, sources)
    actual = sum(np.sum(a * g) for a, g in zip(along, arrays(second())))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_what_memory_keeps_is_a_constant_of_the_derivative():
    net = Net("dense")
    net.x, optimizer = tf.Variable(net.x), ProxProp(memory=CurvatureMemory(layers="all"))
    sources = [*net.weights, net.x]

    def value():
        with ImplicitGradientTape(net.model, **optimizer.step_arguments()) as tape:
            loss = net.loss()
        return tf.add_n([tf.reduce_sum(tf.sin(d)) for d in tape.gradient(loss, net.weights)])

    value()
    with tf.GradientTape() as outer:
        total = value()
    expected, along = slope(value, sources)
    found = arrays(outer.gradient(total, sources))
    actual = sum(np.sum(a * g) for a, g in zip(along, found))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_tape_within_a_tape_makes_directions_of_a_direction(wrap):
    net = Net("dense")

    def value(tape):
        with tape:
            loss = net.loss()
        directions = tape.gradient(loss, net.weights)
        return loss + tf.add_n([tf.reduce_sum(tf.sin(d)) for d in directions])

    @WRAPS[wrap]
    def step():
        with implicit(net, tau=0.1, final_layer="explicit") as outer:
            total = value(implicit(net))
        return outer.gradient(total, net.weights)

    with tf.GradientTape() as plain:
        total = value(implicit(net))
    expected = arrays(plain.gradient(total, net.weights))
    expected[:2] = implicit_direction([net.x], expected[:2], 0.1)
    assert_all_close(step(), expected)


def test_a_tape_that_persists_makes_directions_of_its_own_directions():
    net = Net("dense")

    def value(tape):
        loss = net.loss()
        directions = tape.gradient(loss, net.weights)
        return loss + tf.add_n([tf.reduce_sum(tf.sin(d)) for d in directions])

    with tf.GradientTape() as plain, implicit(net, persistent=True) as tape:
        total = value(tape)
    actual = tape.gradient(total, net.weights)
    expected = arrays(plain.gradient(total, net.weights))
    hidden = tf.tanh(net.x @ net.weights[0] + net.weights[1])
    expected[:2] = implicit_direction([net.x], expected[:2], TAU)
    expected[2:] = implicit_direction([hidden], expected[2:], TAU)
    assert_all_close(actual, expected)
