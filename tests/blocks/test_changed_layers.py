"""A layer that computes otherwise than its block knows takes its gradient, and says why."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from changed_layers import CASES, Own
from helpers import assert_close, steps

from keras_proxprop import ImplicitGradientTape, ProxProp, blocks, register_block
from keras_proxprop.keras_seams.layers import layers_of

layers = keras.layers


@pytest.fixture
def registered():
    register_block(Own)
    yield
    del blocks._BLOCKS[Own]


def net(case):
    """A layer that steps explicitly, between layers that do not and the last one."""
    make, shape, why = CASES[case]
    keras.utils.set_random_seed(0)
    layer = make()
    dense = [] if isinstance(layer, layers.Embedding) else [layers.Dense(shape[-1], "tanh")]
    ends = [layers.Flatten(), layers.Dense(3, "tanh", name="after"), layers.Dense(2)]
    model = keras.Sequential([keras.Input(shape), *dense, layer, *ends])
    x = np.random.default_rng(0).integers(1, 9, size=(8, *shape)) / 8
    return model, layer, tf.constant(x * 8 if not dense else x, "float32"), why


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
@pytest.mark.parametrize("case", CASES)
def test_it_computes_as_itself_and_takes_its_gradient(case, wrap, registered):
    model, layer, x, _ = net(case)
    weights = layer.trainable_variables

    def loss():
        return tf.reduce_sum(tf.sin(model(x, training=True)))

    @wrap
    def directions():
        with ImplicitGradientTape(model) as tape:
            value = loss()
        return value, tape.gradient(value, weights)

    with tf.GradientTape() as tape:
        expected = loss()
    gradients = tape.gradient(expected, weights)
    value, found = directions()
    assert_close(value, expected, 1e-5)
    for direction, gradient in zip(found, gradients):
        assert (direction is None) == (gradient is None)
        if gradient is not None:
            direction, gradient = map(tf.convert_to_tensor, (direction, gradient))
            assert_close(direction, gradient, 1e-4)


@pytest.mark.parametrize("case", CASES)
def test_summary_says_why_and_the_others_step_implicitly(case, registered):
    model, layer, _, why = net(case)
    found = steps(model, 8)
    assert found.pop(model.layers[-1].name) == "explicit: final layer"
    own = {inner.name for inner in layers_of(layer)} & set(found)
    assert own and {found.pop(name) for name in own} == {f"explicit: {why}"}
    assert set(found.values()) == {"implicit"}


@pytest.mark.filterwarnings("ignore:No layer of model")
def test_a_call_that_was_assigned_is_run_and_stays():
    layer = layers.Dense(3)
    model = keras.Sequential([keras.Input((4,)), layer, layers.Dense(2)])
    calls = {}
    for owner in (layer, model):
        call = owner.call
        calls[owner] = owner.call = lambda *args, call=call, **kwargs: (
            call(*args, **kwargs) * 0
        )
    model.compile(ProxProp(), "mse", jit_compile=False)
    before = layer.kernel.numpy()
    model.train_on_batch(np.ones((8, 4)), np.ones((8, 2)))
    np.testing.assert_array_equal(layer.kernel, before)
    assert all(vars(owner)["call"] is call for owner, call in calls.items())


def test_a_call_that_is_assigned_during_a_forward_pass_stays():
    layer = layers.Dense(3)
    model = keras.Sequential([keras.Input((4,)), layer, layers.Dense(2)])
    with ImplicitGradientTape(model):
        layer.call = call = lambda x: x
    assert vars(layer)["call"] is call
    with ImplicitGradientTape(model):
        del layer.call
    assert "call" not in vars(layer)
