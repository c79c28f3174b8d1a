"""Models with several inputs and outputs, and layers called twice, take the same steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import DIFFERENT_MODES, MODES, HandWrittenNet, assert_close_weights
from model_cases import (
    FEATURES,
    OPTIMIZERS,
    TAU,
    UNITS,
    batches,
    by_layer,
    data,
    dense,
    fit,
    hand_written_net,
    initial,
    mean_square,
)

from keras_proxprop import ProxProp

pytestmark = pytest.mark.usefixtures("float64")


def two_inputs_two_outputs():
    a, b = keras.Input((FEATURES,), name="a"), keras.Input((4,), name="b")
    trunk = dense("second")(keras.layers.Concatenate()([dense("first")(a), b]))
    return keras.Model({"a": a, "b": b}, [dense("last")(trunk), trunk])


@pytest.mark.parametrize("mode", DIFFERENT_MODES)
def test_a_model_with_two_inputs_and_two_outputs(mode):
    x, y = data()
    b, y2 = data(features=4, targets=5)
    model = two_inputs_two_outputs()
    model.compile(
        ProxProp("adam", 0.01, tau=TAU, memory=None), loss=["mse", "mse"], **MODES[mode]
    )
    model.fit({"a": x, "b": b}, [y, y2], batch_size=8, shuffle=False, verbose=0)

    # The trunk is an output itself, so both it and the last layer are final.
    weights = {
        "first": (initial("first", 8, FEATURES), initial("first", 8)),
        "second": (initial("second", 5, 12), initial("second", 5)),
        "last": (initial("last", 3, 5), initial("last", 3)),
    }
    net = HandWrittenNet(weights, explicit=["second", "last"])
    optimizer = OPTIMIZERS["adam"]()
    for x_, b_, y_, y2_ in batches(x, b, y, y2):

        def loss():
            a = tf.concat([tf.nn.relu(net.dense("first", x_)), b_], 1)
            trunk = tf.tanh(net.dense("second", a))
            return mean_square(y_, net.dense("last", trunk)) + mean_square(y2_, trunk)

        net.step(loss, optimizer, TAU)
    expected = [v.numpy() for pair in net.weights.values() for v in pair]
    assert_close_weights(by_layer(model), expected, 1e-10)


def siamese():
    """Two images through one trunk, and their difference through the last layer."""
    a, b = keras.Input((FEATURES,)), keras.Input((FEATURES,))
    trunk = keras.Sequential([keras.Input((FEATURES,)), dense("first"), dense("second")])
    return keras.Model([a, b], dense("last")(keras.layers.Subtract()([trunk(a), trunk(b)])))


class TwoShapes(keras.Model):
    """One trunk on vectors and on sequences of vectors."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = map(dense, UNITS)

    def call(self, inputs):
        vector, sequence = inputs
        a = self.second(self.first(vector))
        b = keras.ops.mean(self.second(self.first(sequence)), axis=1)
        return self.last(a - b)


@pytest.mark.parametrize(
    "kind, mode",
    [(siamese, mode) for mode in DIFFERENT_MODES]
    + [(TwoShapes, mode) for mode in ("eager", "graph")],
)
def test_a_layer_called_twice_is_one_problem_with_its_rows_stacked(kind, mode):
    x, y = data()
    x2 = np.random.default_rng(2).normal(size=(40, FEATURES))
    if kind is TwoShapes:
        x2 = np.stack([x2, x2 + 1, x2**2], axis=1)
    model = kind()
    fit(model, [x, x2], y, OPTIMIZERS["adam"](), mode)

    net = hand_written_net()
    optimizer = OPTIMIZERS["adam"]()

    def trunk(x):
        a = tf.tanh(net.dense("second", tf.nn.relu(net.dense("first", x))))
        return tf.reduce_mean(a, axis=1) if len(a.shape) == 3 else a

    for x_, x2_, y_ in batches(x, x2, y):

        def loss():
            return mean_square(y_, net.dense("last", trunk(x_) - trunk(x2_)))

        net.step(loss, optimizer, TAU)
    expected = [v.numpy() for pair in net.weights.values() for v in pair]
    assert_close_weights(by_layer(model), expected, 1e-10)
