"""A loss that depends on no weight brings Keras's error, as with Keras's own optimizers."""

import keras
import pytest
import tensorflow as tf
from helpers import MODES, assert_equal_weights, weights_of
from scenarios import RESUMED, compiled, data, fit, mlp

from keras_proxprop import ImplicitGradientTape, ProxProp

NEW = {**RESUMED, "default": ProxProp}
with_each = pytest.mark.parametrize("new", NEW.values(), ids=NEW)


def constant(y, y_pred):
    return tf.stop_gradient(tf.reduce_mean((y - y_pred) ** 2))


def assert_raises_as_in_keras(model, step):
    before = weights_of(model)
    with pytest.raises(ValueError, match="No gradients provided for any variable"):
        step()
    assert_equal_weights(weights_of(model), before)


@pytest.mark.parametrize("mode", MODES)
@with_each
def test_fit_raises_it_in_every_mode(new, mode):
    model = compiled(mlp(), new(), loss=constant, **{"jit_compile": "auto", **MODES[mode]})
    assert_raises_as_in_keras(model, lambda: fit(model))


@pytest.mark.parametrize("mode", ["eager", "graph"])
@with_each
def test_a_loss_scale_optimizer_raises_it(new, mode):
    optimizer = keras.optimizers.LossScaleOptimizer(new())
    model = compiled(mlp(), optimizer, loss=constant, **MODES[mode])
    assert_raises_as_in_keras(model, lambda: fit(model))


@with_each
def test_accumulation_of_gradients_raises_it(new):
    model = compiled(mlp(), new(gradient_accumulation_steps=2), loss=constant)
    assert_raises_as_in_keras(model, lambda: fit(model))


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
@with_each
def test_a_loop_of_ones_own_raises_it(new, wrap):
    model, optimizer, (x, y) = mlp(), new(), data()
    optimizer.build(model.trainable_variables)

    @wrap
    def step():
        keras_own = isinstance(optimizer, keras.optimizers.Adam)
        with tf.GradientTape() if keras_own else ImplicitGradientTape(model) as tape:
            loss = constant(y, model(x))
        directions = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(directions, model.trainable_variables))

    assert_raises_as_in_keras(model, step)
