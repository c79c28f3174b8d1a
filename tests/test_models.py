"""However a network is written in Keras, and however it runs, it takes the same steps.

Every test trains in float64 for five batches and compares with a
network whose layers, gradients and implicit steps are written out by hand.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import DIFFERENT_MODES, assert_close, assert_close_weights
from model_cases import (
    FEATURES,
    OPTIMIZERS,
    TAU,
    batches,
    by_layer,
    data,
    dense,
    fit,
    hand_written_net,
    mean_square,
)

pytestmark = pytest.mark.usefixtures("float64")


def sequential():
    return keras.Sequential([dense("first"), dense("second"), dense("last")])


def functional():
    inputs = keras.Input((FEATURES,))
    return keras.Model(inputs, dense("last")(dense("second")(dense("first")(inputs))))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.rest = dense("first"), [dense("second"), dense("last")]

    def call(self, x):
        x = self.first(x)
        for layer in self.rest:
            x = layer(x)
        return x


class LazilyBuilt(keras.Model):
    def build(self, input_shape):
        self.hidden = keras.Sequential([dense("first"), dense("second")])
        self.last = dense("last")
        super().build(input_shape)

    def call(self, x):
        return self.last(self.hidden(x))


class LazilyBuiltLayer(keras.layers.Layer):
    def build(self, input_shape):
        self.second = dense("second")
        self.second.build(input_shape)

    def call(self, x):
        return self.second(x)


def subclassed_and_built():
    model = Subclassed()
    model(np.zeros((1, FEATURES)))
    return model


def nested():
    inner = keras.Sequential([keras.Input((FEATURES,)), dense("first"), dense("second")])
    inputs = keras.Input((FEATURES,))
    return keras.Model(inputs, dense("last")(inner(inputs)))


def nested_twice():
    return keras.Sequential([keras.Sequential([Subclassed()])])


def with_a_layer_of_layers():
    return keras.Sequential([dense("first"), LazilyBuiltLayer(), dense("last")])


KINDS = [
    sequential,
    functional,
    subclassed_and_built,
    Subclassed,
    LazilyBuilt,
    nested,
    nested_twice,
    with_a_layer_of_layers,
]


def hand_written_mlp(optimizer):
    """The weights after five batches: the hidden layers step implicitly, the last does not."""
    net = hand_written_net()
    for x, y in batches(*data()):

        def loss():
            a = tf.nn.relu(net.dense("first", x))
            a = tf.tanh(net.dense("second", a))
            return mean_square(y, net.dense("last", a))

        net.step(loss, optimizer, TAU)
    return [v.numpy() for pair in net.weights.values() for v in pair]


# What XLA compiles is a trace, however the model is written.
@pytest.mark.parametrize(
    "kind, mode",
    [(kind, mode) for kind in KINDS for mode in ("eager", "graph")] + [(functional, "xla")],
)
def test_every_kind_of_model_takes_the_hand_written_steps(kind, mode):
    model = kind()
    fit(model, *data(), OPTIMIZERS["adam"](), mode)
    expected = hand_written_mlp(OPTIMIZERS["adam"]())
    assert_close_weights(by_layer(model), expected, 1e-10)


@pytest.mark.parametrize("mode", ["graph", "default"])
def test_nesterov_takes_the_hand_written_steps(mode):
    model = functional()
    fit(model, *data(), OPTIMIZERS["nesterov"](), mode)
    expected = hand_written_mlp(OPTIMIZERS["nesterov"]())
    assert_close_weights(by_layer(model), expected, 1e-10)


def test_float32_takes_the_hand_written_steps_to_its_precision():
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    model = functional()
    fit(model, *data(), OPTIMIZERS["nesterov"](), "default")
    expected = hand_written_mlp(OPTIMIZERS["nesterov"]())
    assert model.trainable_weights[0].dtype == "float32"
    assert_close_weights(by_layer(model), expected, 1e-4)


def test_the_modes_agree_on_a_convolutional_model():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 6, 6, 2)), rng.normal(size=(40, 3))
    found = {}
    for mode in DIFFERENT_MODES:
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.layers.Conv2D(3, 3, padding="same", activation="relu"),
                keras.layers.MaxPooling2D(),
                keras.layers.Conv2D(4, 2, strides=2),
                keras.layers.Flatten(),
                keras.layers.Dense(3),
            ]
        )
        fit(model, x, y, "adam", mode)
        found[mode] = np.concatenate([w.numpy().ravel() for w in model.weights])
    assert_close(found["graph"], found["eager"], 1e-9)
    assert_close(found["xla"], found["eager"], 1e-9)
