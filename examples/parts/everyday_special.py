"""The everyday tasks with more than a chain of layers: autoencoders, a GAN, physics, pairs."""

import keras
import numpy as np
import tensorflow as tf

from parts import models
from parts.datasets import Data
from parts.everyday_images import digits, flat_fashion
from parts.everyday_task import Task, make_step, tape_of
from parts.training import Evaluation

L = keras.layers


class Sampling(L.Layer):
    """Draws from a normal distribution, and adds its distance from the standard one."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, mean, log_variance, training=False):
        distance = tf.exp(log_variance) + mean**2 - 1 - log_variance
        self.add_loss(0.5 * tf.reduce_mean(tf.reduce_sum(distance, axis=-1)))
        if not training:
            return mean
        noise = keras.random.normal(tf.shape(mean), seed=self.seeds)
        return mean + tf.exp(0.5 * log_variance) * noise


def _vae():
    inputs = keras.Input((784,))
    x = L.Dense(400, activation="relu")(inputs)
    z = Sampling()(L.Dense(20)(x), L.Dense(20)(x))
    return keras.Model(inputs, L.Dense(784, name="logits")(L.Dense(400, activation="relu")(z)))


class WithOwnLosses(Evaluation):
    """Losses of a model that has some of its own besides."""

    def _sums_of_a_piece(self, x, y):
        loss, hits = super()._sums_of_a_piece(x, y)
        own = tf.add_n(self._model.losses)
        return loss + own * tf.cast(tf.shape(x)[0], "float32"), hits


class Transposed(L.Layer):
    """A layer whose weights are those of another one, the other way round."""

    def __init__(self, dense, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.activation = dense, keras.activations.get(activation)

    def build(self, shape):
        self.bias = self.add_weight(shape=(self.dense.kernel.shape[0],), initializer="zeros")

    def call(self, x):
        return self.activation(x @ keras.ops.transpose(self.dense.kernel) + self.bias)


def _tied():
    encoder = [L.Dense(256, activation="tanh"), L.Dense(64)]
    inputs = x = keras.Input((784,))
    for layer in encoder:
        x = layer(x)
    x = Transposed(encoder[1], "tanh")(x)
    return keras.Model(inputs, Transposed(encoder[0], name="logits")(x))


_NOISE = 16


class GAN(keras.Model):
    """Two nets: each step trains the one to tell digits, the other to be taken for them."""

    def __init__(self):
        super().__init__()
        widths = 128, 128
        hidden = [L.Dense(width, activation="relu") for width in widths]
        self.generator = keras.Sequential(
            [keras.Input((_NOISE,)), *hidden, L.Dense(64, "sigmoid", name="logits")]
        )
        hidden = [L.Dense(width, activation="leaky_relu") for width in widths]
        # Noise keeps the critic from being sure, which would end the training.
        inputs = [keras.Input((64,)), L.GaussianNoise(0.5)]
        self.critic = keras.Sequential([*inputs, *hidden, L.Dense(1, name="logits")])
        self.seeds = keras.random.SeedGenerator(0)

    def build(self, shape):
        self.built = True

    def call(self, noise):
        return self.generator(noise)

    def compile(self, optimizer, **kwargs):
        super().compile(optimizer, **kwargs)
        # The same for the critic, with a state of its own.
        self.critic_optimizer = type(optimizer).from_config(optimizer.get_config())

    def train_step(self, data):
        real = data[0]
        noise = keras.random.normal((tf.shape(real)[0], _NOISE), seed=self.seeds)
        fake = self.generator(noise, training=True)
        with tape_of(self.critic_optimizer, self.critic) as tape:
            logits = self.critic(tf.concat([real, fake], 0), training=True)
            is_real = tf.concat([tf.ones_like(real[:, :1]), tf.zeros_like(fake[:, :1])], 0)
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(is_real, logits))
        make_step(self.critic_optimizer, tape, loss, self.critic)
        with tape_of(self.optimizer, self.generator) as tape:
            logits = self.critic(self.generator(noise, training=True), training=True)
            loss = tf.reduce_mean(tf.nn.softplus(-logits))
        make_step(self.optimizer, tape, loss, self.generator)
        return {"loss": loss}


class EnergyDistance:
    """How far what a generator makes is from real examples, as a distance of distributions.

    Args:
        model: the `GAN`.
        loss: unused.
        data: `Data`, its `x` real examples.
    """

    def __init__(self, model, loss, data):
        self._model, self._data = model, data
        noise = np.random.default_rng(0).normal(size=(1000, _NOISE))
        self._noise = noise.astype("float32")

    def __call__(self):
        fake = self._model(self._noise).numpy()
        parts = {"loss": self._data.x, "val_loss": self._data.x_val}
        found = {name: _energy(real, fake) for name, real in parts.items()}
        return found | {"val_accuracy": np.nan}


def _energy(a, b):
    return float(2 * _distance(a, b) - _distance(a, a) - _distance(b, b))


def _distance(a, b):
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0)).mean()


def _flat_digits():
    return digits().reconstruction()


def _pairs():
    """Pairs of digits, half of them of one class, as `Data`; the targets are 1 for these."""
    random = np.random.default_rng(0)

    def pairs(x, y, count):
        first = random.integers(len(x), size=count)
        same = random.integers(2, size=count).astype(bool)
        second = np.empty_like(first)
        for label in range(10):
            for of_same, among in ((True, y == label), (False, y != label)):
                rows = (y[first] == label) & (same == of_same)
                second[rows] = random.choice(np.flatnonzero(among), rows.sum())
        return np.stack([x[first], x[second]], axis=1), same[:, None].astype("float32")

    d = _flat_digits()
    labels = digits()
    return Data(*pairs(d.x, labels.y, 8000), *pairs(d.x_val, labels.y_val, 2000))


def _towers():
    tower = keras.Sequential(
        [L.Dense(64, activation="relu"), L.Dense(64, activation="relu"), L.Dense(16)]
    )
    inputs = keras.Input((2, 64))
    apart = tower(inputs[:, 0]) - tower(inputs[:, 1])
    return keras.Model(inputs, keras.ops.sum(apart**2, axis=-1, keepdims=True))


def _contrastive_loss(same, squares):
    """Squared distance of a pair of one class; what another pair lacks to 1, squared."""
    distance = tf.sqrt(squares + 1e-12)
    lack = tf.maximum(1 - distance, 0) ** 2
    return tf.squeeze(same * squares + (1 - same) * lack, -1)


TASKS = {
    "vae": Task(
        "VAE 784-400-20-400-784",
        _vae,
        flat_fashion,
        100,
        400,
        models.image_loss,
        evaluation=WithOwnLosses,
    ),
    "tied": Task(
        "autoencoder 784-256-64-256-784, tied weights",
        _tied,
        flat_fashion,
        100,
        400,
        models.image_loss,
    ),
    "gan": Task(
        "GAN on digits, energy distance",
        GAN,
        _flat_digits,
        64,
        1000,
        models.image_loss,
        evaluation=EnergyDistance,
    ),
    "metric": Task(
        "pairs of digits, one tower for both", _towers, _pairs, 64, 1000, _contrastive_loss
    ),
}
