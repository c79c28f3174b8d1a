"""A tape beside others, around others, and within others: each returns what is its own."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import implicit_direction
from tapes_together_cases import (
    KINDS,
    TAU,
    WRAPS,
    Net,
    alone,
    arrays,
    assert_all_close,
    implicit,
)

pytestmark = pytest.mark.usefixtures("float64")


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
