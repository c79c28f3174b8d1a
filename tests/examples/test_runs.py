"""A run's clock counts training alone, and its warm-up leaves no trace."""

import math

import keras
import numpy as np
import pytest
from helpers import assert_equal_weights

from keras_proxprop import CurvatureMemory, ProxProp
from parts import datasets, models
from parts.training import Evaluation, Run

L = keras.layers
OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "proxprop": lambda: ProxProp(),
    "memory": lambda: ProxProp(memory=CurvatureMemory(layers="all")),
}


def make_model():
    keras.utils.set_random_seed(5)
    layers = [L.Flatten(), L.Dense(12), L.BatchNormalization(), L.Activation("relu")]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers, L.Dropout(0.1), L.Dense(10)])


@pytest.fixture(scope="module")
def data():
    return datasets.load("digits").head(105)


def new(data, optimizer="proxprop", seed=3):
    return Run(make_model(), models.class_loss, data, 20, seed, OPTIMIZERS[optimizer]())


def state(run):
    return [v.numpy() for v in run.model.variables + run.model.optimizer.variables]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_is_training_on_the_same_batches_without_a_warm_up(data, optimizer):
    run = new(data, optimizer)
    run.train(steps=7)
    model = make_model()
    optimizer = OPTIMIZERS[optimizer]()
    model.compile(optimizer=optimizer, loss=models.class_loss, jit_compile=False)
    for step in range(7):
        batch = datasets.epoch_batches(105, 20, 3, step // 5)[step % 5]
        model.train_on_batch(data.x[batch], data.y[batch])
    expected = [v.numpy() for v in model.variables + optimizer.variables]
    assert_equal_weights(state(run), expected)
    assert run.steps == 7


class Clock:
    """A clock that only what is patched moves on."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("parts.training.time.perf_counter", lambda: self.now)
        self.takes(monkeypatch, Run, "_step", 1.0)
        self.takes(monkeypatch, Run, "_warm_up", 100.0)
        self.takes(monkeypatch, Evaluation, "__call__", 100.0)

    def takes(self, monkeypatch, owner, name, seconds):
        original = getattr(owner, name)

        def timed(*args):
            self.now += seconds
            return original(*args)

        monkeypatch.setattr(owner, name, timed)


def test_the_clock_counts_steps_and_nothing_else(data, monkeypatch):
    clock = Clock(monkeypatch)
    run = new(data)
    run.train(steps=2)
    run.evaluate()
    run.train(seconds=4.5)
    assert run.steps == 5 and run.seconds == 5.0
    run.train(seconds=4.5)
    assert run.steps == 5 and clock.now > 200


def test_a_saved_run_goes_on_as_if_it_had_not_stopped(data, tmp_path):
    through = new(data)
    through.train(steps=8)
    first = new(data)
    first.train(steps=4)
    first.save(tmp_path / "state.npz")
    second = new(data)
    second.load(tmp_path / "state.npz")
    assert second.steps == 4 and second.seconds == first.seconds
    second.train(steps=8)
    assert_equal_weights(state(second), state(through))


def test_a_diverged_run_is_not_trained_further(data):
    model, sgd = make_model(), keras.optimizers.SGD(1e30)
    run = Run(model, models.class_loss, data, 20, 0, sgd)
    run.train(steps=50)
    assert run.diverged and run.steps < 50
    assert math.isnan(run.evaluate()["loss"])


def test_evaluation_against_numpy(data):
    keras.utils.set_random_seed(0)
    model = models.mlp((8, 8, 1), 9)
    w, b, v, c = (a.astype("float64") for a in model.get_weights())
    values = Evaluation(model, models.class_loss, data)()

    def logits(x):
        return np.maximum(x.reshape(len(x), -1) @ w + b, 0) @ v + c

    def loss(x, y):
        z = logits(x)
        return np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y])

    assert values["loss"] == pytest.approx(loss(data.x, data.y), rel=1e-5)
    assert values["val_loss"] == pytest.approx(loss(data.x_val, data.y_val), rel=1e-5)
    right = np.mean(logits(data.x_val).argmax(axis=1) == data.y_val)
    assert values["val_accuracy"] == pytest.approx(right)
    some = Evaluation(model, models.class_loss, data)(count=30)
    assert some["loss"] == pytest.approx(loss(data.x[:30], data.y[:30]), rel=1e-5)


def test_pieces_of_an_evaluation_make_a_mean_over_all(data, monkeypatch):
    model = make_model()
    whole = Evaluation(model, models.class_loss, data)()
    monkeypatch.setattr("parts.training._EVALUATED_AT_ONCE", 40)
    assert Evaluation(model, models.class_loss, data)() == pytest.approx(whole, rel=1e-5)


def test_an_autoencoder_has_losses_and_no_accuracy(data):
    task = data.reconstruction()
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), L.Dense(64)])
    values = Evaluation(model, models.image_loss, task)()
    w, b = model.get_weights()
    z = task.x.astype("float64") @ w + b
    expected = np.mean(np.sum(np.log1p(np.exp(z)) - task.x * z, axis=1))
    assert values["loss"] == pytest.approx(expected, rel=1e-5)
    assert math.isnan(values["val_accuracy"])
