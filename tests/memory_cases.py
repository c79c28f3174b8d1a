"""A small ConvNet with curvature memory, data to train it on, and what its steps should be."""

import keras
import numpy as np
import tensorflow as tf
from helpers import MODES, weights_of

from keras_proxprop import CurvatureMemory, ProxProp

L = keras.layers
FLOOR = 1e-5


class AveragedReference:
    """P = (R Ḡ + I/τ)⁻¹ G in NumPy, float64, with the schedule of refreshes written out.

    Args:
        decay, refresh_every: as in `CurvatureMemory`.
        tau: τ.
    """

    def __init__(self, decay, refresh_every, tau):
        self.decay, self.every, self.tau = decay, refresh_every, tau
        self.grams, self.last, self.refreshes = [], None, []

    def due(self, step):
        """Returns whether a layer that waits for no other is refreshed."""
        allowed = min(max(step // 4, 1), self.every)
        return self.last is None or step - self.last >= allowed

    def direction(self, step, a, gradient, due):
        if due:
            age = max(step - (self.last or 0), 1)
            keep = self.decay ** (age / self.every)
            self.grams = [(keep * w, g, r) for w, g, r in self.grams]
            self.grams.append((1 - keep, a.T @ a / len(a), len(a)))
            self.last = step
            self.refreshes.append(step)
            total = sum(w for w, _, _ in self.grams)
            gram = sum(w * g for w, g, _ in self.grams) / total
            rows = sum(w * r for w, _, r in self.grams) / total
            tau = 10 / np.mean(np.diag(rows * gram)) if self.tau == "auto" else self.tau
            matrix = rows * gram + np.eye(a.shape[1]) / tau
            self.matrix = matrix + FLOOR * np.diag(np.diag(matrix))
        return np.linalg.solve(self.matrix, gradient)


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


def restored(way, model, new, folder):
    """Returns a model with the state of another one, which was saved in one of three ways.

    Args:
        way: "keras", "weights" or "checkpoint".
        model: the other one.
        new: function of nothing that returns a model like it.
        folder: where to save.
    """
    if way == "keras":
        model.save(folder / "m.keras")
        return keras.models.load_model(folder / "m.keras")
    other = new()
    other.optimizer.build(other.trainable_variables)
    if way == "weights":
        model.save_weights(folder / "m.weights.h5")
        other.load_weights(folder / "m.weights.h5")
    else:
        path = tf.train.Checkpoint(model=model, o=model.optimizer).save(folder / "c")
        tf.train.Checkpoint(model=other, o=other.optimizer).restore(path)
    return other
