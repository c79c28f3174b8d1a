"""Training steps that were damped are told of once."""

import warnings

import keras
import numpy as np
import pytest

from keras_proxprop import ProxProp

X = np.ones((8, 3))


def trained(model):
    """Returns what is said after a training."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.fit(X, X[:, :1], verbose=0)
    return [str(each.message) for each in said if "damped" in str(each.message)]


def test_those_of_an_earlier_process_are_no_news(tmp_path):
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(4), keras.layers.Dense(1)])
    model.compile(ProxProp(), "mse")
    model.fit(X, X[:, :1], verbose=0)
    counted = model.optimizer._damped_steps
    counted.assign(5)
    model.save(tmp_path / "model.keras")
    other = keras.models.load_model(tmp_path / "model.keras")
    assert other.optimizer._damped_steps.numpy() == 5
    assert trained(other) == trained(other) == []


@pytest.mark.parametrize("times", [1, 2])
def test_those_of_a_training_are_told_of_after_it(times):
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(4), keras.layers.Dense(1)])
    model.compile(ProxProp(), "mse")
    counts = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: model.optimizer._damped_steps.assign_add(2)
    )
    for _ in range(times):
        with pytest.warns(UserWarning, match="2 training steps were damped"):
            model.fit(X, X[:, :1], callbacks=[counts], verbose=0)
