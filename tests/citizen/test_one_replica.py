"""A strategy with one replica, as on a machine with one device, trains as no strategy does."""

import contextlib
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import MODES, assert_close_weights, assert_equal_weights, weights_of
from scenarios import compiled, fit, optimizer_state

from keras_proxprop import CurvatureMemory, ImplicitGradientTape, ProxProp, StepMonitor

L = keras.layers
MEMORY = CurvatureMemory(layers="all", refresh_every=3)
STRATEGIES = {
    "mirrored": lambda: tf.distribute.MirroredStrategy(["CPU:0"]),
    "workers": tf.distribute.MultiWorkerMirroredStrategy,
    "one-device": lambda: tf.distribute.OneDeviceStrategy("CPU:0"),
    "central": lambda: tf.distribute.experimental.CentralStorageStrategy(["CPU:0"], "CPU:0"),
}
OPTIMIZERS = {
    "default": ProxProp,
    "memory": lambda: ProxProp(memory=MEMORY),
    "no-memory": lambda: ProxProp("adam", memory=None),
    "mean": lambda: ProxProp("adam", memory=MEMORY, cross_replica="mean"),
    "accumulation": lambda: ProxProp(memory=MEMORY, gradient_accumulation_steps=2),
    "loss-scale": lambda: keras.optimizers.LossScaleOptimizer(ProxProp(memory=MEMORY), 8.0),
    # In float32 the inverse is not trusted: what is rarely taken is.
    "float64": lambda: ProxProp("sgd", tau=1e9, memory=None, solver="exact"),
}


def data():
    x = np.random.default_rng(0).normal(size=(23, 5)).astype("float32")
    return x, np.tanh(x[:, :2])


def model_of(new, **kwargs):
    keras.utils.set_random_seed(1)
    layers = [L.Dense(6, "tanh"), L.BatchNormalization(), L.Dense(2)]
    model = keras.Sequential([keras.Input((5,)), *layers])
    return compiled(model, new(), **kwargs)


def trained(strategy, new, x_and_y, callbacks=(), **kwargs):
    """Returns a model after three epochs, with refreshes of its memory."""
    with STRATEGIES[strategy]().scope() if strategy else contextlib.nullcontext():
        model = model_of(new, **kwargs)
    fit(model, *x_and_y, epochs=3, callbacks=list(callbacks))
    assert all(np.isfinite(w).all() for w in weights_of(model))
    return model


def weights_and_state(*training, **kwargs):
    model = trained(*training, **kwargs)
    return weights_of(model), optimizer_state(model.optimizer)


@functools.cache
def without_a_strategy(new):
    return weights_and_state(None, new, data())


def assert_trains_alike(strategy, new, x_and_y=None, **kwargs):
    # XLA compiles two programs, which may round in two ways.
    jit = kwargs.get("jit_compile") is True
    alike = (
        functools.partial(assert_close_weights, tolerance=1e-5)
        if jit
        else assert_equal_weights
    )
    if x_and_y is None:
        expected, x_and_y = without_a_strategy(new), data()
    else:
        expected = weights_and_state(None, new, x_and_y, **kwargs)
    found = weights_and_state(strategy, new, x_and_y, **kwargs)
    alike(found[0], expected[0])
    alike(found[1].values(), expected[1].values())


@pytest.mark.parametrize("new", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_mirrored_strategy_with_one_device_trains_as_without(new):
    assert_trains_alike("mirrored", new)


@pytest.mark.parametrize("strategy", ["workers", "one-device", "central"])
def test_every_strategy_with_one_replica_trains_as_without(strategy):
    assert_trains_alike(strategy, OPTIMIZERS["memory"])


@pytest.mark.parametrize("mode", ["eager", "default", "xla"])
def test_one_replica_trains_in_every_mode(mode):
    kwargs = {"jit_compile": "auto", **MODES[mode]}
    # Whole batches: XLA compiles a smaller one anew.
    x_and_y = [a[:16] for a in data()]
    assert_trains_alike("mirrored", OPTIMIZERS["memory"], x_and_y, **kwargs)


def test_one_replica_trains_in_float16():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        assert_trains_alike("mirrored", OPTIMIZERS["memory"], data())
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("name", ["memory", "no-memory", "accumulation"])
def test_one_replica_leaves_out_a_step_that_is_not_finite(name):
    x, y = data()
    x[9] = np.nan
    assert_trains_alike("mirrored", OPTIMIZERS[name], (x, y))


def test_a_monitor_measures_on_one_replica_what_it_measures_without():
    measured = []
    for strategy in (None, "mirrored"):
        # So layers have the same names both times.
        keras.backend.clear_session(free_memory=False)
        model = trained(strategy, OPTIMIZERS["memory"], data(), [StepMonitor(every=2)])
        history = model.history.history
        # What a layer takes in seconds is not the same twice.
        kept = [key for key in history if "/" in key and not key.endswith("/seconds")]
        measured.append({key: history[key] for key in kept})
    assert measured[0] and measured[0] == measured[1]


def test_a_loop_of_ones_own_trains_on_one_replica():
    weights = []
    for strategy in (tf.distribute.get_strategy(), STRATEGIES["mirrored"]()):
        with strategy.scope():
            model = model_of(OPTIMIZERS["memory"])
            optimizer = model.optimizer
            optimizer.build(model.trainable_variables)

        def step(x, y):
            with ImplicitGradientTape(model, **optimizer.step_arguments()) as tape:
                loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            directions = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(directions, model.trainable_variables))

        run = tf.function(lambda x, y: strategy.run(step, args=(x, y)), autograph=False)
        for _ in range(5):
            run(*map(tf.constant, data()))
        weights.append(weights_of(model))
    assert_equal_weights(*weights)
