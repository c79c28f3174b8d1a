"""Curvature memory: what the direction is, checked against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, assert_close_weights, weights_of
from memory_cases import AveragedReference, convnet, data, train

import keras_proxprop
from keras_proxprop import CurvatureMemory, ProxProp

L = keras.layers


def jacobian(layer):
    """Returns a function of a batch: the rows of `A` that one output column sees, by
    automatic differentiation."""

    # Outside of a graph every Jacobian is traced anew.
    @tf.function
    def rows(x):
        with tf.GradientTape() as tape:
            z = tf.reshape(layer(x)[..., 0], [-1])
        parts = tape.jacobian(z, layer.trainable_variables)
        return tf.concat([tf.reshape(p[..., 0], [z.shape[0], -1]) for p in parts], axis=1)

    return rows


CASES = {
    "dense": (lambda: L.Dense(3), (7, 4)),
    "dense-no-bias": (lambda: L.Dense(3, use_bias=False), (2, 4)),
    "dense-on-sequences": (lambda: L.Dense(3), (4, 6, 3)),
    "conv1d-causal": (lambda: L.Conv1D(2, 3, padding="causal"), (3, 6, 2)),
    "conv2d-same": (lambda: L.Conv2D(2, 3, padding="same"), (3, 5, 4, 2)),
    "conv2d-strided": (lambda: L.Conv2D(2, 3, 2, use_bias=False), (3, 7, 5, 2)),
}


@pytest.mark.parametrize("tau", [0.5, "auto"])
@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_the_averaged_gram_matrix(name, tau, float64):
    make, shape = CASES[name]
    layer = make()
    model = keras.Sequential([keras.Input(shape[1:]), layer])
    memory = CurvatureMemory(decay=0.7, refresh_every=4, layers="all")
    optimizer = ProxProp(
        keras.optimizers.SGD(0.3), tau=tau, final_layer="implicit", memory=memory
    )
    model.compile(optimizer, loss="mse", jit_compile=False)
    reference = AveragedReference(0.7, 4, tau)
    random = np.random.default_rng(0)
    rows_of = jacobian(layer)
    weights = [w.numpy() for w in layer.trainable_variables]
    for step in range(53):
        # Now and then a batch is smaller.
        x = tf.constant(random.normal(size=(shape[0] - step % 2, *shape[1:])) + 0.3)
        y = random.normal(size=layer(x).shape)
        a = rows_of(x).numpy()
        residual = (layer(x).numpy() - y).reshape(-1, y.shape[-1]) * 2 / y.size
        due = reference.due(step)
        direction = reference.direction(step, a, a.T @ residual, due)
        split = np.split(direction, [direction.shape[0] - layer.use_bias])
        weights = [w - 0.3 * np.reshape(p, w.shape) for w, p in zip(weights, split)]
        model.train_on_batch(x, y)
        for variable, weight in zip(layer.trainable_variables, weights):
            assert_close(variable.numpy(), weight, 1e-9)
    # Every step at first, and then ever less often.
    assert reference.refreshes[:8] == list(range(8))
    assert np.all(np.diff(reference.refreshes[-3:]) == 4)


def test_the_first_step_is_the_batchs_own():
    own, kept = convnet(memory=None), convnet()
    for model in (own, kept):
        train(model, epochs=1, n=8)
    assert_close_weights(weights_of(kept), weights_of(own), 1e-3)


def test_where_all_batches_are_alike_so_are_the_steps():
    layers = [keras.Input((4,)), L.Dense(3)]
    models = [keras.Sequential(layers), keras.Sequential(layers)]
    x, y = np.random.default_rng(0).normal(size=(2, 9, 4))
    for memory, model in zip([None, CurvatureMemory(layers="all")], models):
        model.set_weights([np.ones((4, 3)), np.zeros(3)])
        sgd = keras.optimizers.SGD(0.5)
        model.compile(ProxProp(sgd, final_layer="implicit", memory=memory), loss="mse")
        model.fit(x, y[:, :3], epochs=30, verbose=0)
    assert_close_weights(weights_of(models[1]), weights_of(models[0]), 1e-3)


def test_to_be_watched_changes_no_step():
    watched, alone = convnet(), convnet()
    train(watched, epochs=6, callbacks=[keras_proxprop.StepMonitor(3)])
    train(alone, epochs=6)
    assert_close_weights(weights_of(watched), weights_of(alone), 1e-6)


def test_xla_takes_the_same_steps_several_at_a_time():
    plain, xla = convnet(), convnet(jit=True)
    xla.steps_per_execution = 4
    for model in (plain, xla):
        train(model, epochs=4, n=32)
    assert_close_weights(weights_of(xla), weights_of(plain), 1e-3)


def test_an_overflow_is_forgotten():
    # What loss scaling skips must not stay in the average.
    model = convnet()
    train(model, epochs=1)
    before = [w.copy() for w in weights_of(model)]
    x, y = data(8)
    model.train_on_batch(np.full_like(x, np.inf), y)
    kept = model.optimizer._curvatures.variables
    assert kept and all(np.all(np.isfinite(v.numpy())) for v in kept)
    assert len(before) == len(weights_of(model))


def test_a_change_of_tau_counts_from_the_next_refresh():
    model = convnet(tau=1.0, memory=CurvatureMemory(refresh_every=2, layers="all"))
    train(model, epochs=10)
    inverse = model.optimizer._curvatures.variables[1]
    model.optimizer.tau = 1e-6
    train(model, epochs=1)
    assert_close(inverse.numpy(), 1e-6 * np.eye(inverse.shape[0]), 1e-2)


def test_a_step_count_that_is_set_back_refreshes_at_once():
    model = convnet(memory=CurvatureMemory(refresh_every=50, layers="all"))
    train(model, epochs=20)
    model.optimizer._iterations.assign(0)
    train(model, epochs=1, n=8)
    assert int(model.optimizer._curvatures.variables[4].numpy()) == 0


def test_in_a_loop_of_ones_own():
    model = convnet()
    optimizer = ProxProp(memory=CurvatureMemory(layers="all"))
    x, y = data(8)
    for _ in range(3):
        with keras_proxprop.ImplicitGradientTape(model, **optimizer.step_arguments()) as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        directions = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(directions, model.trainable_variables))
    assert len(optimizer._curvatures._states) == 3
    assert int(optimizer._curvatures.variables[4]) == 2
