"""Which layers step explicitly: those next to an output, and those that the user names."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from explicit_layers import dense, explicit_layers
from helpers import assert_close, implicit_direction

from keras_proxprop import ImplicitGradientTape
from keras_proxprop.reports.summary import layer_reports

layers = keras.layers


def followed_by_a_softmax_activation():
    return keras.Sequential(
        [dense("a"), layers.ReLU(), dense("b"), layers.Dropout(0.5), layers.Softmax()]
    )


def followed_by_a_custom_layer_without_weights():
    class Double(layers.Layer):
        def call(self, x):
            return 2 * x

    return keras.Sequential([dense("a"), dense("b"), Double(), layers.Reshape((3, 1))])


def followed_by_a_layer_with_weights():
    return keras.Sequential([dense("a"), dense("b"), layers.BatchNormalization()])


def with_two_heads():
    inputs = keras.Input((4,))
    trunk = dense("a")(inputs)
    return keras.Model(inputs, {"x": dense("b")(trunk), "y": dense("c")(dense("d")(trunk))})


def with_a_skip_to_the_output():
    inputs = keras.Input((4,))
    a = dense("a")(inputs)
    return keras.Model(inputs, layers.Add()([a, dense("b")(a)]))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        # Declared in another order than called.
        self.last, self.first = dense("b"), dense("a")

    def call(self, x):
        return keras.ops.softmax(self.last(keras.ops.relu(self.first(x))))


def nested_head():
    head = keras.Sequential([keras.Input((3,)), dense("b"), dense("c"), layers.Softmax()])
    return keras.Sequential([dense("a"), keras.Sequential([head])])


def nested_trunk():
    return keras.Sequential([keras.Sequential([dense("a"), dense("b")]), dense("c")])


class ReturnsTwoThings(keras.Model):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = dense("a"), dense("b"), dense("c")

    def call(self, x):
        x = self.a(x)
        return self.b(x), {"extra": [self.c(x)]}


FINAL = {
    followed_by_a_softmax_activation: ["b"],
    followed_by_a_custom_layer_without_weights: ["b"],
    followed_by_a_layer_with_weights: [],
    with_two_heads: ["b", "c"],
    with_a_skip_to_the_output: ["a", "b"],
    Subclassed: ["b"],
    nested_head: ["c"],
    nested_trunk: ["c"],
    ReturnsTwoThings: ["b", "c"],
}


@pytest.mark.filterwarnings("ignore:No layer of model")
@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
@pytest.mark.parametrize("make", FINAL, ids=lambda make: make.__name__)
def test_final_layers_are_those_with_no_weights_between_them_and_an_output(make, wrap):
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    assert explicit_layers(make(), x, wrap) == FINAL[make]


@pytest.mark.filterwarnings("error")
def test_final_layers_step_implicitly_where_asked():
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    assert explicit_layers(with_two_heads(), x, final_layer="implicit") == []


def in_parts(model, x):
    for layer in model.layers:
        x = layer(x)
    return x


def test_a_model_called_in_parts_has_the_final_layers_that_its_loss_shows():
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    model = followed_by_a_softmax_activation()
    model(x)
    assert explicit_layers(model, x, tf.function, in_parts) == ["b"]


def test_a_model_called_in_parts_eagerly_says_what_to_do():
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    model = followed_by_a_softmax_activation()
    model(x)
    with pytest.raises(ValueError, match="final_layer='implicit'"):
        explicit_layers(model, x, call=in_parts)
    assert explicit_layers(model, x, call=in_parts, final_layer="implicit") == []


class Derivative(keras.Model):
    """What a net's second derivative is, and the net itself at other points."""

    def __init__(self):
        super().__init__()
        kinds = ("first", 5, "tanh"), ("second", 4, "tanh"), ("last", 1, None)
        own = [layers.Dense(units, act, name=name) for name, units, act in kinds]
        self.net = keras.Sequential([keras.Input((1,)), *own])

    def build(self, shape):
        self.built = True

    def call(self, points):
        x = points[:, :1]
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                u = self.net(x)
            slope = inner.gradient(u, x)
        return tf.concat([outer.gradient(slope, x), self.net(points[:, 1:])], axis=1)


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_a_model_that_differentiates_itself_has_the_final_layers_of_its_net(float64, wrap):
    keras.utils.set_random_seed(0)
    model, tau = Derivative(), 0.5
    points = tf.constant(np.random.default_rng(0).normal(size=(6, 2)))
    model(points)
    weights = model.trainable_variables

    @wrap
    def directions(points):
        with ImplicitGradientTape(model, tau=tau) as tape:
            loss = tf.reduce_sum(model(points) ** 2)
        return tape.gradient(loss, weights)

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(points) ** 2)
    gradients = tape.gradient(loss, weights)
    found = directions(points)
    rows = [points[:, :1], points[:, 1:]]
    for i, layer in enumerate(model.net.layers):
        own = gradients[2 * i : 2 * i + 2]
        expected = own if layer.name == "last" else implicit_direction(rows, own, tau)
        for a, e in zip(found[2 * i : 2 * i + 2], expected):
            assert_close(a, e, 1e-8)
        rows = [layer(r) for r in rows]
    steps = {r.name: r.step for r in layer_reports(model, 6)}
    final = "explicit: final layer"
    assert steps == {"first": "implicit", "second": "implicit", "last": final}
