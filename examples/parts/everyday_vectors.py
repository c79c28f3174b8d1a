"""The everyday tasks on vectors of numbers: regression, classes, tables, ratings."""

import keras
import numpy as np

from parts import models
from parts.datasets import Data
from parts.everyday_task import Task, square_loss

L = keras.layers


def split(x, y, train):
    """Returns the `Data` whose first examples are for training, the rest for validation."""
    return Data(x[:train], y[:train], x[train:], y[train:])


def _smooth():
    random = np.random.default_rng(0)
    x = random.normal(size=(5000, 8)).astype("float32")
    y = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.3 * x[:, 3] ** 2
    return split(x, y[:, None].astype("float32"), 4000)


def _clusters():
    from sklearn.datasets import make_classification

    x, y = make_classification(
        6000, 20, n_informative=10, n_classes=5, n_clusters_per_class=3, random_state=0
    )
    return split(x.astype("float32"), y.astype("int32"), 5000)


def _friedman():
    """Friedman's first problem, five of 20 features count, and each has a scale of its own."""
    random = np.random.default_rng(0)
    x = random.uniform(size=(18000, 20))
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2
    y += 10 * x[:, 3] + 5 * x[:, 4] + random.normal(size=len(x))
    y = (y - y.mean()) / y.std()
    x *= 10.0 ** random.uniform(-2, 2, 20)
    return split(x.astype("float32"), y[:, None].astype("float32"), 16000)


_USERS, _ITEMS = 600, 400


def _ratings():
    """Ratings that are products of five hidden numbers, and some noise."""
    random = np.random.default_rng(0)
    users, items = random.normal(size=(_USERS, 5)), random.normal(size=(_ITEMS, 5))
    x = np.stack([random.integers(_USERS, size=30000), random.integers(_ITEMS, size=30000)], 1)
    y = (users[x[:, 0]] * items[x[:, 1]]).sum(1) / np.sqrt(5) + 0.1 * random.normal(size=30000)
    return split(x.astype("int32"), y[:, None].astype("float32"), 25000)


def _regression(*widths):
    def make():
        layers = [L.Dense(width, activation="relu") for width in widths[1:]]
        inputs = keras.Input((widths[0],))
        return keras.Sequential([inputs, *layers, L.Dense(1, name="logits")])

    return make


def _recommender():
    inputs = keras.Input((2,), dtype="int32")
    user, item = inputs[:, 0], inputs[:, 1]
    product = L.Dot(axes=1)([L.Embedding(_USERS, 8)(user), L.Embedding(_ITEMS, 8)(item)])
    own = [L.Embedding(_USERS, 1)(user), L.Embedding(_ITEMS, 1)(item)]
    return keras.Model(inputs, L.add([product, *own]))


TASKS = {
    "small": Task(
        "regression 8-32-32-1", _regression(8, 32, 32), _smooth, 64, 1000, square_loss
    ),
    "classes": Task(
        "classes of clusters, 20-16-5",
        lambda: models.mlp((20,), 16, classes=5),
        _clusters,
        32,
        1000,
        models.class_loss,
    ),
    "table": Task(
        "table with features of very different scales, 20-128-128-128-1",
        _regression(20, 128, 128, 128),
        _friedman,
        64,
        1500,
        square_loss,
        evaluated=4096,
    ),
    "recommender": Task(
        "embeddings of users and items, their dot product",
        _recommender,
        _ratings,
        128,
        1500,
        square_loss,
        evaluated=4096,
    ),
}
