"""The optimizers that every scenario is driven with, and small models and data for them."""

import keras
import numpy as np
import pytest

from keras_proxprop import CurvatureMemory, ProxProp


def adam(learning_rate=0.01, **kwargs):
    return keras.optimizers.Adam(learning_rate, **kwargs)


def proxprop(learning_rate=0.01, **kwargs):
    return ProxProp("adam", learning_rate, **{"tau": 1.0, "memory": None, **kwargs})


def remembering(learning_rate=0.01, **kwargs):
    memory = CurvatureMemory(refresh_every=3, layers="all")
    return proxprop(learning_rate, memory=memory, **kwargs)


OPTIMIZERS = {"adam": adam, "proxprop": proxprop}
RESUMED = {**OPTIMIZERS, "memory": remembering}
# Runs a test with each: what holds for Keras's own optimizer must hold for ours.
with_both = pytest.mark.parametrize("new", OPTIMIZERS.values(), ids=OPTIMIZERS)


def data(rows=24, seed=0):
    """Inputs and targets that a small network can learn."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 5)).astype("float32")
    return x, np.tanh(x @ rng.normal(size=(5, 2))).astype("float32")


def mlp(seed=1, units=6):
    """Two Dense layers, the first of which takes implicit steps; the same weights always."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((5,), name="x")
    hidden = keras.layers.Dense(units, "tanh", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(2, name="last")(hidden))


def convnet(seed=3):
    """A convolution, and Dense layers around a normalization; the same weights always."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    images = keras.Input((6, 6, 1))
    x = layers.Conv2D(3, 3, activation="relu", padding="same")(images)
    x = layers.Dense(8, use_bias=False)(layers.Flatten()(x))
    return keras.Model(images, layers.Dense(2)(layers.BatchNormalization()(x)))


def compiled(model, optimizer, **kwargs):
    """Compiles without XLA, whose compilation takes most of a small test's time."""
    model.compile(optimizer=optimizer, **{"loss": "mse", "jit_compile": False, **kwargs})
    return model


def fit(model, *xy, **kwargs):
    xy = xy or data()
    return model.fit(*xy, **{"batch_size": 8, "shuffle": False, "verbose": 0, **kwargs})


def inner(optimizer):
    """Returns the optimizer that makes the steps."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def state(model):
    """Returns all that training changes, weights and optimizer variables, as arrays."""
    return [v.numpy() for v in model.variables + model.optimizer.variables]


def optimizer_state(optimizer):
    """Returns all that an optimizer keeps, `{name: array}`; what memory keeps too."""
    state = {}
    while optimizer is not None:
        inside = getattr(optimizer, "inner_optimizer", None)
        known = {id(v) for v in inside.variables} if inside is not None else set()
        for i, v in enumerate(v for v in optimizer.variables if id(v) not in known):
            state[f"{type(optimizer).__name__}/{i}/{v.name}"] = v.numpy()
        optimizer.save_own_variables(store := {})
        state |= {key: np.array(store[key]) for key in store if not key.isdecimal()}
        optimizer = inside
    return state
