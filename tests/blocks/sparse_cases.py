"""Sparse inputs, models that take them, and the directions of these."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_proxprop import ImplicitGradientTape

TAU = 0.3
WIDE = 100_000


def sparse_and_dense(shape=(6, 40), seed=0):
    """Returns the same random numbers, most of them 0, as a `SparseTensor` and an array."""
    random = np.random.default_rng(seed)
    dense = random.normal(size=shape) * (random.random(shape) < 0.2)
    dense[1] = 0
    dense = dense.astype(keras.config.floatx())
    return tf.sparse.from_dense(dense), dense


def wide(rows=8, entries=20, columns=WIDE, seed=0):
    """Returns a `SparseTensor` with so many entries in every row, and their columns."""
    random = np.random.default_rng(seed)
    at = np.stack([np.sort(random.choice(columns, entries, False)) for _ in range(rows)])
    places = np.stack([np.repeat(np.arange(rows), entries), at.ravel()], axis=1)
    values = random.normal(size=rows * entries).astype("float32")
    return tf.SparseTensor(places, values, [rows, columns])


def functional(width=40, sparse=True, units=5):
    inputs = keras.Input((width,), sparse=sparse)
    hidden = layers.Dense(units, "tanh", name="hidden")(inputs)
    return keras.Model(inputs, layers.Dense(2, name="last")(hidden))


def sequential(width=40, sparse=True, units=5):
    return keras.Sequential(
        [
            keras.Input((width,), sparse=sparse),
            layers.Dense(units, "tanh", name="hidden"),
            layers.Dense(2, name="last"),
        ]
    )


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(5, "tanh", name="hidden")
        self.last = layers.Dense(2, name="last")

    def call(self, x):
        return self.last(self.hidden(x))


def subclassed(width=40, sparse=True):
    model = Subclassed()
    # `build` would make no weights.
    model(np.zeros((1, width)))
    return model


def directions(model, x, loss=None, tau=TAU, **kwargs):
    with ImplicitGradientTape(model, tau, **kwargs) as tape:
        value = tf.reduce_sum(tf.sin(model(x))) if loss is None else loss()
    return tape.gradient(value, model.trainable_variables)
