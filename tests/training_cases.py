"""Small nets that `fit` trains, and the step that it should make."""

import keras
import numpy as np
import tensorflow as tf
from helpers import MODES, implicit_direction, inputs_of

TAU = 0.5


def data(rows=24, classes=3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 5)).astype("float32")
    return x, rng.integers(classes, size=rows)


def mlp(**hidden):
    """Three layers from the same initial weights every time."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((5,))
    x = keras.layers.Dense(7, "tanh", name="hidden", **hidden)(inputs)
    x = keras.layers.Dense(6, "relu", name="second")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="last")(x))


def crossentropy(**kwargs):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **kwargs)


def compiled(model, optimizer, mode="graph", **kwargs):
    kwargs = {"loss": crossentropy(), **kwargs}
    model.compile(optimizer=optimizer, **kwargs, **MODES[mode])
    return model


def fit(model, x, y, **kwargs):
    return model.fit(x, y, **{"batch_size": 8, "shuffle": False, "verbose": 0, **kwargs})


def sgd_step(model, x, loss):
    """The weights after one implicit step at learning rate 1: the last layer's explicit."""
    with tf.GradientTape() as tape:
        value = loss()
    gradients = tape.gradient(value, model.trainable_weights)
    steps = []
    for i, layer in enumerate(layer for layer in model.layers if layer.weights):
        gradient = gradients[2 * i : 2 * i + 2]
        if layer.name != "last":
            gradient = implicit_direction([inputs_of(layer, model, x)], gradient, TAU)
        steps += gradient
    return [w.numpy() - p for w, p in zip(model.trainable_weights, steps)]
