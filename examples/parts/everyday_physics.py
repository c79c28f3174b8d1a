"""The everyday task of physics: a net that solves the heat equation."""

import keras
import numpy as np
import tensorflow as tf

from parts.everyday_task import Task, make_step, tape_of
from parts.everyday_vectors import split

L = keras.layers


class HeatEquation(keras.Model):
    """A net for `u` with `u_t = u_xx / π²`.

    Its inputs are two points of time and place, one within and one at the border; its outputs
    what the equation lacks at the one, and `u` at the other.
    """

    def __init__(self):
        super().__init__()
        hidden = [L.Dense(32, activation="tanh") for _ in range(3)]
        self.net = keras.Sequential([keras.Input((2,)), *hidden, L.Dense(1, name="logits")])

    def build(self, shape):
        self.built = True

    def call(self, points):
        t, x = points[:, :1], points[:, 1:2]
        with tf.GradientTape() as second:
            second.watch(x)
            with tf.GradientTape() as first:
                first.watch([t, x])
                u = self.net(tf.concat([t, x], axis=1))
            u_t, u_x = first.gradient(u, [t, x])
        u_xx = second.gradient(u_x, x)
        return tf.concat([u_t - u_xx / np.pi**2, self.net(points[:, 2:])], axis=1)

    def train_step(self, data):
        points, y = data[:2]
        with tape_of(self.optimizer, self.net) as tape:
            loss = tf.reduce_mean(_loss(y, self(points, training=True)))
        make_step(self.optimizer, tape, loss, self.net)
        return {"loss": loss}


def _solution(t, x):
    return np.exp(-t) * np.sin(np.pi * x) + 0.5 * np.exp(-4 * t) * np.sin(2 * np.pi * x)


def _points():
    random = np.random.default_rng(0)
    inside, border = random.uniform(size=(2, 12000, 2))
    # A third each of the border is at time 0, at place 0 and at place 1.
    side = random.integers(3, size=12000)
    border[side == 0, 0] = 0.0
    border[side == 1, 1], border[side == 2, 1] = 0.0, 1.0
    y = np.stack([np.zeros(12000), _solution(*border.T)], axis=1)
    return split(*(a.astype("float32") for a in (np.hstack([inside, border]), y)), 10000)


def _loss(y, outputs):
    lacking, border = tf.unstack((outputs - y) ** 2, axis=-1)
    return lacking + 10 * border


TASKS = {
    "physics": Task(
        "physics-informed net for the heat equation", HeatEquation, _points, 128, 1500, _loss
    )
}
