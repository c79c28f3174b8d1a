"""A small ConvNet with curvature memory, and data to train it on."""

import keras
import numpy as np
from helpers import MODES, weights_of

from keras_proxprop import CurvatureMemory, ProxProp

L = keras.layers


def convnet(jit=False, dtype=None, **arguments):
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            L.Conv2D(3, 3, padding="same", activation="relu"),
            L.DepthwiseConv2D(3, depth_multiplier=2),
            L.BatchNormalization(),
            L.Flatten(),
            L.Dense(5, activation="tanh"),
            L.Dense(2),
        ]
    )
    arguments = {"memory": CurvatureMemory(layers="all", refresh_every=3), **arguments}
    model.compile(ProxProp(**arguments), loss="mse", **MODES["xla" if jit else "graph"])
    return model


def data(n=24, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 6, 6, 2)).astype("float32")
    return x, np.tanh(x[:, 0, :2, 0] * 3)


def train(model, epochs=3, n=24, batch=8, **kwargs):
    return model.fit(*data(n), batch, epochs, shuffle=False, verbose=0, **kwargs)


def state(model):
    return weights_of(model) + [v.numpy() for v in model.optimizer.variables]
