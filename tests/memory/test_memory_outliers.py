"""What memory keeps of one batch: no more than any batch is worth."""

import functools

import keras
import numpy as np
import pytest
from helpers import assert_equal_weights
from memory_cases import convnet, data, train

from keras_proxprop import CurvatureMemory, ProxProp, RowAdam
from keras_proxprop.memory import averages, refresh
from keras_proxprop.xla import traced_once

L = keras.layers
EVERY = 5


def kept(model):
    """Returns what memory keeps, as arrays."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    proxprop = optimizer if isinstance(optimizer, ProxProp) else model.optimizer
    return [v.numpy() for v in proxprop._curvatures.variables]


def task(seed=0, steps=80):
    """Yields batches of a task that a small net learns."""
    random = np.random.default_rng(seed)
    teacher = np.random.default_rng(5).normal(size=(4, 3))
    for _ in range(steps):
        x = random.normal(size=(16, 6, 4)).astype("float32")
        yield x, np.tanh(x.mean(axis=1) @ teacher * 2).astype("float32")


def net():
    """A net whose first layers are all that is trained."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 4)),
            L.Conv1D(8, 3, activation="relu"),
            L.Dense(8, activation="relu"),
            L.GlobalAveragePooling1D(),
            L.Dense(3, trainable=False),
        ]
    )
    memory = CurvatureMemory(layers="all", refresh_every=EVERY)
    # Nothing is averaged but the Gram matrices.
    optimizer = ProxProp(RowAdam(0.01, global_clipnorm=0.01), memory=memory)
    model.compile(optimizer, loss="mse", jit_compile=False)
    return model


@functools.cache
def losses(outlier, scale):
    """Returns the loss of every step; the inputs of one, `outlier`, are scaled."""
    model, found = net(), []
    for step, (x, y) in enumerate(task()):
        x = x * scale if step == outlier else x
        found.append(model.train_on_batch(x, y))
    return np.array(found)


@pytest.mark.parametrize("outlier", [0, 1, 38])
def test_training_recovers_from_a_batch_of_outliers_within_twenty_steps(outlier):
    # Refreshes are due at all of these steps.
    plain, hit = losses(None, 1.0), losses(outlier, 1000.0)
    after = slice(outlier + 20, outlier + 40)
    assert hit[outlier] > plain[outlier]
    assert np.mean(hit[after]) < 1.15 * np.mean(plain[after])


def test_the_bound_changes_no_step_of_ordinary_training(monkeypatch):
    bounded, hit = losses(None, 1.0), losses(1, 1000.0)
    monkeypatch.setattr(averages, "_LIMIT", np.inf)
    # The trace of before has the bound in it.
    monkeypatch.setattr(refresh, "averaged", traced_once(averages.averaged.__wrapped__))
    anew = losses.__wrapped__
    np.testing.assert_array_equal(anew(None, 1.0), bounded)
    assert np.any(anew(1, 1000.0) != hit)


def test_a_batch_of_outliers_adds_what_ten_batches_would_and_a_lasting_change_all_of_it():
    model = convnet()
    train(model, epochs=20)
    x, y = data(8)

    def refreshed(x):
        """Returns how many times as large a refresh with `x` makes the first average."""
        average, weight = (model.optimizer._curvatures.variables[i].numpy() for i in (0, 2))
        # The last one is as long ago as they are apart.
        model.optimizer._curvatures.variables[4].assign(int(model.optimizer.iterations) - 3)
        model.train_on_batch(x, y)
        new, new_weight = (model.optimizer._curvatures.variables[i].numpy() for i in (0, 2))
        return np.trace(new) / new_weight / (np.trace(average) / weight)

    once, twice = refreshed(1000 * x), refreshed(1000 * x)
    share = 0.1
    assert 1 + 5 * share < once < 1 + 12 * share
    assert twice > 1e3


@pytest.mark.parametrize("scaled", [False, True], ids=["unscaled", "scaled"])
def test_a_batch_whose_gradient_is_not_finite_leaves_no_trace(scaled):
    memory = CurvatureMemory(refresh_every=1, layers="all")
    model = convnet(memory=memory)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(ProxProp(memory=memory), 8.0)
        model.compile(optimizer, loss="mse", jit_compile=False)
    train(model, epochs=2)
    before = kept(model)
    x, y = data(8)
    # The inputs, and so the rows, are finite.
    model.train_on_batch(2 * x, np.full_like(y, np.inf))
    assert_equal_weights(kept(model), before)
    if scaled:
        # The step was skipped: training goes on, and so does memory.
        model.train_on_batch(2 * x, y)
        assert any((a != b).any() for a, b in zip(kept(model), before))
