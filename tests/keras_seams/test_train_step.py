"""How Keras comes to take our training step, and what other training steps may do."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    MODES,
    assert_close_weights,
    assert_equal_weights,
    implicit_direction,
    weights_of,
)

import keras_proxprop
from keras_proxprop import ImplicitGradientTape, ProxProp, RowAdam


def data(rows=24):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 5)).astype("float32"), rng.normal(size=(rows, 2))


def build(base=keras.Model):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(6, "tanh", name="hidden")(inputs)
    return base(inputs, keras.layers.Dense(2, name="last")(hidden))


def fit(model, optimizer, mode="graph", **kwargs):
    model.compile(optimizer=optimizer, loss="mse", **MODES[mode])
    return model.fit(*data(), batch_size=8, shuffle=False, verbose=0, **kwargs)


def test_a_model_with_another_optimizer_runs_keras_train_step(monkeypatch):
    ProxProp()
    monkeypatch.setattr(keras_proxprop.keras_seams.train_step, "train_step", None)
    fit(build(), "adam")
    with pytest.raises(TypeError, match="not callable"):
        fit(build(), ProxProp())


def test_a_subclass_train_step_wins():
    class Own(keras.Model):
        def train_step(self, data):
            return {"own": tf.constant(42.0)}

    model = build(Own)
    before = weights_of(model)
    assert fit(model, ProxProp()).history["own"] == [42.0]
    assert_equal_weights(weights_of(model), before)


def test_a_subclass_reaches_ours_through_super():
    class Logging(keras.Model):
        def train_step(self, data):
            x, y = data
            return {**super().train_step((2 * x, y)), "own": tf.constant(1.0)}

    model, plain = build(Logging), build()
    assert fit(model, ProxProp()).history["own"] == [1.0]
    plain.compile(optimizer=ProxProp(), loss="mse", jit_compile=False)
    x, y = data()
    plain.fit(2 * x, y, batch_size=8, shuffle=False, verbose=0)
    assert_close_weights(weights_of(model), weights_of(plain), 1e-6)


class OwnTrainStep(keras.Model):
    """A training step as Keras's guides write it, for a tape of either kind."""

    def tape(self):
        return tf.GradientTape()

    def train_step(self, data):
        x, y = data
        with self.tape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


class OwnImplicitTrainStep(OwnTrainStep):
    def tape(self):
        return ImplicitGradientTape(self)


@pytest.mark.parametrize("mode", ["eager", "graph", "default"])
@pytest.mark.parametrize(
    "wrap", [lambda o: o, keras.optimizers.LossScaleOptimizer], ids=["plain", "loss_scale"]
)
def test_plain_gradients_of_an_own_train_step_are_refused(mode, wrap):
    model = build(OwnTrainStep)
    before = weights_of(model)
    with pytest.raises(RuntimeError, match="ImplicitGradientTape"):
        fit(model, wrap(ProxProp()), mode)
    assert_equal_weights(weights_of(model), before)


def test_plain_gradients_are_refused_after_implicit_ones_too():
    model, other, optimizer = build(OwnImplicitTrainStep), build(OwnTrainStep), ProxProp()
    fit(model, optimizer, "eager")
    before = weights_of(model)
    with pytest.raises(RuntimeError, match="ImplicitGradientTape"):
        optimizer.apply([tf.ones_like(v) for v in model.weights], model.trainable_variables)
    assert_equal_weights(weights_of(model), before)
    fit(other, "adam")


def test_directions_made_outside_let_no_plain_training_step_through():
    model = build(OwnTrainStep)
    x, y = data()
    with ImplicitGradientTape(model) as tape:
        loss = tf.reduce_mean(tf.square(y - model(x)))
    directions = tape.gradient(loss, model.trainable_variables)
    keras.optimizers.SGD().apply(directions, model.trainable_variables)
    optimizer = ProxProp()
    # Keras traces a step twice where it creates the optimizer's variables, and once here.
    optimizer.build(model.trainable_variables)
    with pytest.raises(RuntimeError, match="ImplicitGradientTape"):
        fit(model, optimizer)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_an_own_train_step_with_the_tape_takes_the_steps_of_ours(mode):
    model, plain = build(OwnImplicitTrainStep), build()
    fit(model, ProxProp(tau=1.0, memory=None), mode)
    fit(plain, ProxProp(tau=1.0, memory=None), mode)
    assert_close_weights(weights_of(model), weights_of(plain), 1e-6)


def test_directions_may_be_clipped_and_scaled_on_their_way():
    model, optimizer = build(), ProxProp("sgd", 1.0)
    x, y = data()
    before = weights_of(model)
    with ImplicitGradientTape(model) as tape:
        loss = tf.reduce_mean(tf.square(y - model(x)))
    directions = [0.5 * d for d in tape.gradient(loss, model.trainable_variables)]
    optimizer.apply_gradients(zip(directions, model.trainable_variables))
    expected = [w - d.numpy() for w, d in zip(before, directions)]
    assert_close_weights(weights_of(model), expected, 1e-6)


def test_a_model_without_supported_layers_trains_explicitly_with_one_warning():
    class OwnRecurrence(keras.layers.LSTM):
        def inner_loop(self, *args, **kwargs):
            return super().inner_loop(*args, **kwargs)

    def recurrent():
        keras.utils.set_random_seed(0)
        return keras.Sequential([OwnRecurrence(3), keras.layers.Dense(2)])

    x, y = np.random.default_rng(0).normal(size=(24, 6, 4)), data()[1]
    models = []
    for optimizer in (ProxProp(RowAdam()), keras.optimizers.Adam(epsilon=1e-12)):
        models.append(model := recurrent())
        model.compile(optimizer=optimizer, loss="mse", jit_compile=False)
        if len(models) == 1:
            with pytest.warns(UserWarning, match="No layer of model") as caught:
                model.fit(x, y, batch_size=10, epochs=2, verbose=0, shuffle=False)
                model.fit(x, y, batch_size=24, verbose=0)
            ours = [w for w in caught if "No layer of model" in str(w.message)]
            assert len(ours) == 1 and "summary" in str(ours[0].message)
        else:
            model.fit(x, y, batch_size=10, epochs=2, verbose=0, shuffle=False)
            model.fit(x, y, batch_size=24, verbose=0)
    assert_close_weights(*map(weights_of, models), 1e-6)


def test_a_wholly_frozen_model_warns_as_with_other_optimizers():
    model = build()
    model.trainable = False
    before = weights_of(model)
    with pytest.warns(UserWarning, match="does not have any trainable weights"):
        fit(model, ProxProp())
    assert_equal_weights(weights_of(model), before)


def gan():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    generator = keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh"), layers.Dense(5)])
    critic = keras.Sequential([keras.Input((5,)), layers.Dense(6, "tanh"), layers.Dense(1)])
    return generator, critic


def gan_losses(generator, critic):
    rng = np.random.default_rng(1)
    noise, real = (rng.normal(size=(8, n)).astype("float32") for n in (3, 5))
    fake = generator(noise)
    logits = critic(fake), critic(real)
    return (
        tf.reduce_mean(tf.nn.softplus(-logits[0])),
        tf.reduce_mean(tf.nn.softplus(logits[0]) + tf.nn.softplus(-logits[1])),
        [noise],
        [fake, real],
    )


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_two_tapes_over_two_models_in_one_with_as_a_gan_needs(wrap):
    generator, critic = gan()
    weights = generator.trainable_weights, critic.trainable_weights

    @wrap
    def step():
        with ImplicitGradientTape(generator) as tape_g, ImplicitGradientTape(critic) as tape_c:
            loss_g, loss_c, _, _ = gan_losses(generator, critic)
        return tape_g.gradient(loss_g, weights[0]), tape_c.gradient(loss_c, weights[1])

    with tf.GradientTape(persistent=True) as tape:
        loss_g, loss_c, *inputs = gan_losses(generator, critic)
    for directions, loss, own, rows in zip(step(), (loss_g, loss_c), weights, inputs):
        plain = tape.gradient(loss, own)
        expected = [*implicit_direction(rows, plain[:2], 1.0), *plain[2:]]
        assert_close_weights(directions, expected, 1e-5)
