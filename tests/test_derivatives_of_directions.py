"""A direction is differentiated as what it is, by a tape of TensorFlow's and by ours."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import implicit_direction
from tapes_together_cases import TAU, WRAPS, Net, arrays, assert_all_close, implicit

from keras_proxprop import CurvatureMemory, ImplicitGradientTape, ProxProp, solvers

pytestmark = pytest.mark.usefixtures("float64")


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
