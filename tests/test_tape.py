"""What a tape has beyond TensorFlow's: memory, damping, jacobians; what it leaves behind."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import implicit_direction
from tape_net import TAU, Net, arrays, assert_same

from keras_proxprop import CurvatureMemory, ImplicitGradientTape, ProxProp

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("memory", ["auto", CurvatureMemory(), CurvatureMemory(layers="all")])
def test_memory_without_an_optimizer_is_refused_with_the_way_out(memory):
    with pytest.raises(ValueError, match=r"`memory`.*step_arguments\(\)") as raised:
        ImplicitGradientTape(Net().model, memory=memory)
    assert f"memory={memory!r}" in str(raised.value)


@pytest.mark.parametrize("memory", [3, "all", CurvatureMemory, ProxProp])
def test_what_is_no_memory_is_named(memory):
    with pytest.raises(TypeError, match="`memory`") as raised:
        ImplicitGradientTape(Net().model, memory=memory)
    assert f"memory={memory!r}" in str(raised.value)


def test_the_memory_of_an_optimizer_lives_on_from_tape_to_tape():
    net, optimizer = Net(), ProxProp(memory=CurvatureMemory(layers="all"))
    for _ in range(3):
        with ImplicitGradientTape(net.model, **optimizer.step_arguments()) as tape:
            loss = net.loss()
        optimizer.apply(tape.gradient(loss, net.weights), net.weights)
    kept = {v.name: v.numpy() for v in optimizer.variables if "refreshed" in v.name}
    assert list(kept.values()) == [2]


class Duplicates(Net):
    """A net whose Gram matrix cannot be inverted where tau is huge."""

    def __init__(self):
        super().__init__()
        self.x = tf.constant(1e6 * np.ones((7, 4)))


def test_damped_tells_of_the_last_gradient():
    net = Duplicates()
    with ImplicitGradientTape(net.model, tau=1e12, persistent=True) as tape:
        loss = net.loss()
    with pytest.warns(UserWarning, match="damped"):
        tape.gradient(loss, net.weights)
    assert tape.damped
    tape.gradient(loss, net.last.trainable_variables)
    assert not tape.damped


class Failing(keras.Model):
    def __init__(self, fails):
        super().__init__()
        self.inner, self.fails = keras.layers.Dense(2), fails

    def call(self, x):
        y = self.inner(x)
        if self.fails:
            raise ZeroDivisionError
        return y


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_an_exception_leaves_nothing_behind(wrap):
    model = Failing(fails=False)
    model(np.ones((1, 4)))
    model.fails = True

    @wrap
    def step():
        with ImplicitGradientTape(model), ImplicitGradientTape(model) as inner:
            with inner.stop_recording():
                model(tf.ones((1, 4)))

    # AutoGraph makes another exception of it.
    with pytest.raises(Exception, match="ZeroDivisionError|Exception encountered"):
        step()
    assert all("call" not in vars(layer) for layer in model._flatten_layers())
    model.fails = False
    with ImplicitGradientTape(model, final_layer="implicit") as tape:
        loss = tf.reduce_sum(model(np.ones((1, 4))))
    assert tape.gradient(loss, model.inner.kernel) is not None


# Jacobians: of the function, not of a step.


@pytest.mark.parametrize("parallel", [True, False], ids=["pfor", "loop"])
@pytest.mark.parametrize("take", ["jacobian", "batch_jacobian"])
@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_jacobians_are_those_of_the_function(take, wrap, parallel):
    def of(tape_class):
        @wrap
        def found():
            with tape_class(persistent=True) as tape:
                tape.watch(net.x)
                y = net.model(net.x)
            options = {"experimental_use_pfor": parallel}
            if take == "jacobian":
                return tape.jacobian(y, [net.x, *net.weights], **options)
            return [tape.batch_jacobian(y, net.x, **options)]

        return [j.numpy() for j in found()]

    net = Net()
    assert_same(
        of(functools.partial(ImplicitGradientTape, net.model)), of(tf.GradientTape), 1e-12
    )


def test_a_jacobian_is_followed_by_implicit_directions():
    net = Net()
    with ImplicitGradientTape(net.model, tau=TAU, persistent=True) as tape:
        y = net.model(net.x)
    direction = tape.gradient(y, net.weights)
    jacobians = tape.jacobian(y, net.weights)
    assert not tape.damped
    assert_same(arrays(tape.gradient(y, net.weights)), arrays(direction))
    summed = tf.reduce_sum(jacobians[0], [0, 1]), tf.reduce_sum(jacobians[1], [0, 1])
    assert_same(arrays(direction[:2]), implicit_direction([net.x], summed, TAU), 1e-10)


def test_a_jacobian_is_no_direction_for_an_optimizer():
    net, optimizer = Net(), ProxProp()
    with ImplicitGradientTape(net.model) as tape:
        loss = net.loss()
    jacobians = tape.jacobian(loss, net.weights)
    with pytest.raises(RuntimeError, match="plain gradients"):
        optimizer.apply(jacobians, net.weights)
