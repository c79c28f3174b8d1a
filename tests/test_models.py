"""However a network is written in Keras, and however it runs, it takes the same steps.

Every test trains in float64 for five batches and compares with a
network whose layers, gradients and implicit steps are written out by hand.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import MODES, HandWrittenNet, assert_close, assert_close_weights

from keras_proxprop import ProxProp

pytestmark = pytest.mark.usefixtures("float64")

TAU = 0.7
FEATURES, UNITS = 6, {"first": 8, "second": 5, "last": 3}
ACTIVATIONS = {"first": "relu", "second": "tanh", "last": None}
OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "nesterov": lambda: keras.optimizers.SGD(0.5, momentum=0.9, nesterov=True),
}
TRACED = ["eager", "graph", "xla"]


def initial(name, columns, rows=None):
    seed = 10 * list(UNITS).index(name) + (rows is None)
    shape = (columns,) if rows is None else (rows, columns)
    return np.random.default_rng(seed).normal(0, 0.5, shape)


def dense(name):
    def initializer(shape, dtype=None):
        return tf.constant(initial(name, *reversed(shape)), dtype)

    return keras.layers.Dense(
        UNITS[name],
        ACTIVATIONS[name],
        kernel_initializer=initializer,
        bias_initializer=initializer,
        name=name,
    )


def data(rows=40, features=FEATURES, targets=3):
    rng = np.random.default_rng(1)
    return rng.normal(size=(rows, features)), rng.normal(size=(rows, targets))


def batches(*arrays):
    return [[a[i : i + 8] for a in arrays] for i in range(0, 40, 8)]


def mean_square(y, z):
    return tf.reduce_mean(tf.square(y - z))


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
    sizes = [FEATURES, *UNITS.values()]
    weights = {
        name: (initial(name, columns, rows), initial(name, columns))
        for name, rows, columns in zip(UNITS, sizes, sizes[1:])
    }
    net = HandWrittenNet(weights, explicit=["last"])
    for x, y in batches(*data()):

        def loss():
            a = tf.nn.relu(net.dense("first", x))
            a = tf.tanh(net.dense("second", a))
            return mean_square(y, net.dense("last", a))

        net.step(loss, optimizer, TAU)
    return [v.numpy() for pair in net.weights.values() for v in pair]


def fit(model, x, y, optimizer, mode, **proxprop):
    model.compile(
        ProxProp(optimizer, tau=TAU, **{"memory": None, **proxprop}), loss="mse", **MODES[mode]
    )
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)


def by_layer(model):
    """The weights in the order of UNITS, whatever order the model lists them in."""
    found = {v.path.split("/")[-2]: [] for v in model.trainable_weights}
    for v in model.trainable_weights:
        found[v.path.split("/")[-2]].append(v.numpy())
    return [v for name in UNITS for v in found[name]]


@pytest.mark.parametrize("mode", TRACED)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
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


def two_inputs_two_outputs():
    a, b = keras.Input((FEATURES,), name="a"), keras.Input((4,), name="b")
    trunk = dense("second")(keras.layers.Concatenate()([dense("first")(a), b]))
    return keras.Model({"a": a, "b": b}, [dense("last")(trunk), trunk])


@pytest.mark.parametrize("mode", TRACED)
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


@pytest.mark.parametrize("mode", TRACED)
@pytest.mark.parametrize("kind", [siamese, TwoShapes], ids=lambda kind: kind.__name__)
def test_a_layer_called_twice_is_one_problem_with_its_rows_stacked(kind, mode):
    x, y = data()
    x2 = np.random.default_rng(2).normal(size=(40, FEATURES))
    if kind is TwoShapes:
        x2 = np.stack([x2, x2 + 1, x2**2], axis=1)
    model = kind()
    fit(model, [x, x2], y, OPTIMIZERS["adam"](), mode)

    sizes = [FEATURES, *UNITS.values()]
    weights = {
        name: (initial(name, columns, rows), initial(name, columns))
        for name, rows, columns in zip(UNITS, sizes, sizes[1:])
    }
    net = HandWrittenNet(weights, explicit=["last"])
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


def test_the_modes_agree_on_a_convolutional_model():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 6, 6, 2)), rng.normal(size=(40, 3))
    found = {}
    for mode in TRACED:
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
