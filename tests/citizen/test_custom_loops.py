"""A user's own step, as a `tf.function`: AutoGraph rewrites what such a step calls."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.autograph.core import config as autograph
from tensorflow.python.autograph.impl import api

import keras_proxprop
from keras_proxprop import ProxProp

L = keras.layers


def net():
    layers = [L.Conv1D(4, 3), L.BatchNormalization(), L.LSTM(3), L.Dense(4), L.Dense(2)]
    return keras.Sequential([keras.Input((6, 2)), *layers])


@pytest.fixture
def rewritten(monkeypatch):
    """Names of the functions that AutoGraph has rewritten, as it does for users."""
    own = [rule for rule in autograph.CONVERSION_RULES if not rule.matches("keras_proxprop.x")]
    assert len(own) == len(autograph.CONVERSION_RULES) - 1
    monkeypatch.setattr(autograph, "CONVERSION_RULES", tuple(own))
    found, convert = [], api._convert_actual

    def noted(entity, context):
        found.append(f"{entity.__module__}.{entity.__qualname__}")
        return convert(entity, context)

    monkeypatch.setattr(api, "_convert_actual", noted)
    return found


@pytest.mark.parametrize(
    "optimizer",
    {
        "default": ProxProp,
        "inner": lambda: ProxProp(keras.optimizers.SGD(0.1), memory=None, tau=1.0),
        "scaled": lambda: keras.optimizers.LossScaleOptimizer(ProxProp()),
    }.items(),
    ids=lambda item: item[0],
)
def test_autograph_rewrites_nothing_of_the_package(optimizer, rewritten):
    model, optimizer = net(), optimizer[1]()
    optimizer.build(model.trainable_variables)
    inner = getattr(optimizer, "inner_optimizer", None)
    own = inner if isinstance(inner, ProxProp) else optimizer
    mse = keras.losses.MeanSquaredError()

    @tf.function
    def step(x, y):
        arguments = own.step_arguments()
        with keras_proxprop.ImplicitGradientTape(model, **arguments) as tape:
            loss = optimizer.scale_loss(mse(y, model(x, training=True)))
        directions = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(directions, model.trainable_variables)
        return loss

    before = model.get_weights()
    step(tf.ones([5, 6, 2]), tf.ones([5, 2]))
    assert any(np.any(a != b) for a, b in zip(before, model.get_weights()))
    # The user's own step is.
    assert any(name.startswith(__name__) for name in rewritten)
    assert not [name for name in rewritten if name.startswith("keras_proxprop")]
