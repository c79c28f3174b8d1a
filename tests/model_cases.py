"""An MLP, its data, and the steps of a net that is written by hand."""

import keras
import numpy as np
import tensorflow as tf
from helpers import MODES, HandWrittenNet

from keras_proxprop import ProxProp

TAU = 0.7
FEATURES, UNITS = 6, {"first": 8, "second": 5, "last": 3}
ACTIVATIONS = {"first": "relu", "second": "tanh", "last": None}
OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "nesterov": lambda: keras.optimizers.SGD(0.5, momentum=0.9, nesterov=True),
}


def initial(name, columns, rows=None):
    seed = 10 * list(UNITS).index(name) + (rows is None)
    shape = (columns,) if rows is None else (rows, columns)
    return np.random.default_rng(seed).normal(0, 0.5, shape)


def dense(name):
    def initializer(shape, dtype=None):
        return tf.constant(initial(name, *reversed(shape)), dtype)

    return keras.layers.Dense(
        UNITS[name],
        ACTIVATIONS[name],
        kernel_initializer=initializer,
        bias_initializer=initializer,
        name=name,
    )


def data(rows=40, features=FEATURES, targets=3):
    rng = np.random.default_rng(1)
    return rng.normal(size=(rows, features)), rng.normal(size=(rows, targets))


def batches(*arrays):
    return [[a[i : i + 8] for a in arrays] for i in range(0, 40, 8)]


def mean_square(y, z):
    return tf.reduce_mean(tf.square(y - z))


def fit(model, x, y, optimizer, mode, **proxprop):
    model.compile(
        ProxProp(optimizer, tau=TAU, **{"memory": None, **proxprop}), loss="mse", **MODES[mode]
    )
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)


def by_layer(model):
    """The weights in the order of UNITS, whatever order the model lists them in."""
    found = {v.path.split("/")[-2]: [] for v in model.trainable_weights}
    for v in model.trainable_weights:
        found[v.path.split("/")[-2]].append(v.numpy())
    return [v for name in UNITS for v in found[name]]


def hand_written_net():
    """The three layers as they begin; the last one steps explicitly."""
    sizes = [FEATURES, *UNITS.values()]
    weights = {
        name: (initial(name, columns, rows), initial(name, columns))
        for name, rows, columns in zip(UNITS, sizes, sizes[1:])
    }
    return HandWrittenNet(weights, explicit=["last"])
