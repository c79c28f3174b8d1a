"""The tape does what `tf.GradientTape` does, call by call.

Every behaviour is run with both. Where all layers step explicitly the results are the
same; where one steps implicitly they are what a float64 solve makes of the gradients.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import implicit_direction
from tape_cases import BEHAVIOURS, run
from tape_net import TAU, Net, assert_same

from keras_proxprop import ImplicitGradientTape

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.filterwarnings("ignore:No layer of model")
@pytest.mark.parametrize("name", BEHAVIOURS)
def test_excluded_layers_have_the_gradients_of_tensorflow(name):
    net = Net()
    explicit = functools.partial(
        ImplicitGradientTape, net.model, tau=TAU, exclude=keras.layers.Dense
    )
    actual, _ = run(BEHAVIOURS[name], explicit, net)
    expected, _ = run(BEHAVIOURS[name], tf.GradientTape, Net())
    for a, e in zip(actual, expected, strict=True):
        assert_same(a, e)


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_implicit_layers_have_the_directions_of_a_solve(name):
    net = Net()
    implicit = functools.partial(ImplicitGradientTape, net.model, tau=TAU)
    actual, _ = run(BEHAVIOURS[name], implicit, net)
    expected, recorded = run(BEHAVIOURS[name], tf.GradientTape, Net())
    for a, e, rows in zip(actual, expected, recorded, strict=True):
        if rows and e[0] is not None:
            solved = implicit_direction(rows, [e[0], e[1]], TAU)
            assert np.linalg.norm(solved[0] - e[0]) > 1e-2 * np.linalg.norm(e[0])
            e = [*solved, *e[2:]]
        assert_same(a, e, 1e-10)


# What TensorFlow's tape refuses, in its words.


def a_second_gradient(tape_class, net):
    with tape_class() as tape:
        loss = net.loss()
    tape.gradient(loss, net.weights)
    tape.gradient(loss, net.weights)


def a_gradient_after_a_jacobian(tape_class, net):
    with tape_class() as tape:
        y = net.model(net.x)
    tape.jacobian(y, net.weights)
    tape.gradient(y, net.weights)


def a_jacobian_after_a_gradient(tape_class, net):
    with tape_class() as tape:
        y = net.model(net.x)
    tape.gradient(y, net.weights)
    tape.jacobian(y, net.weights)


def a_batch_jacobian_after_a_gradient(tape_class, net):
    with tape_class() as tape:
        y = net.model(net.x)
    tape.gradient(y, net.weights)
    tape.batch_jacobian(y, net.x)


def a_jacobian_in_a_loop(tape_class, net):
    with tape_class() as tape:
        y = net.model(net.x)
    tape.jacobian(y, net.weights, experimental_use_pfor=False)


def a_batch_jacobian_of_two_batches(tape_class, net):
    with tape_class() as tape:
        y = net.model(net.x)
    tape.batch_jacobian(y, net.other)


def no_context(tape_class, net):
    tape_class().gradient(net.loss(), net.weights)


def a_context_within_itself(tape_class, net):
    with tape_class() as tape, tape:
        pass


def a_reset_outside(tape_class, net):
    with tape_class() as tape:
        net.loss()
    tape.reset()


def a_stop_before(tape_class, net):
    with tape_class().stop_recording():
        pass


def a_stop_outside(tape_class, net):
    with tape_class() as tape:
        net.loss()
    with tape.stop_recording():
        pass


def no_target(tape_class, net):
    with tape_class() as tape:
        net.loss()
    tape.gradient(None, net.weights)


def a_target_that_is_a_number(tape_class, net):
    with tape_class() as tape:
        net.loss()
    tape.gradient(3.0, net.weights)


def watching_a_number(tape_class, net):
    with tape_class() as tape:
        tape.watch(3.0)


def watching_a_variable_of_keras(tape_class, net):
    with tape_class() as tape:
        tape.watch(net.weights[0])


def watching_outside(tape_class, net):
    tape_class().watch(net.x)


REFUSED = [
    a_second_gradient,
    a_gradient_after_a_jacobian,
    a_jacobian_after_a_gradient,
    a_batch_jacobian_after_a_gradient,
    a_jacobian_in_a_loop,
    a_batch_jacobian_of_two_batches,
    no_context,
    a_context_within_itself,
    a_reset_outside,
    a_stop_before,
    a_stop_outside,
    no_target,
    a_target_that_is_a_number,
    watching_a_number,
    watching_a_variable_of_keras,
    watching_outside,
]


@pytest.mark.parametrize("refused", REFUSED, ids=lambda f: f.__name__)
def test_what_tensorflow_refuses_is_refused_in_the_same_words(refused):
    net, plain = Net(), Net()
    with pytest.raises(Exception) as expected:
        refused(tf.GradientTape, plain)
    with pytest.raises(type(expected.value)) as raised:
        refused(functools.partial(ImplicitGradientTape, net.model), net)
    assert str(raised.value) == str(expected.value)
    assert all("call" not in vars(layer) for layer in net.model._flatten_layers())


def test_an_unknown_value_for_what_is_unconnected_is_named_before_anything_is_computed():
    net = Net()
    with ImplicitGradientTape(net.model) as tape:
        loss = net.loss()
    with pytest.raises(ValueError, match="'nonsense'"):
        tape.gradient(loss, net.weights, unconnected_gradients="nonsense")
    assert tape.gradient(loss, net.weights)[0] is not None


def test_it_is_a_tape_of_tensorflow():
    assert isinstance(ImplicitGradientTape(Net().model), tf.GradientTape)
