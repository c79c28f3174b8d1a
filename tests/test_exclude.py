"""Layers that the user excludes step explicitly, however they are named."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from explicit_layers import dense, explicit_layers
from helpers import assert_close_weights

from keras_proxprop import ImplicitGradientTape, solvers

layers = keras.layers


def deep():
    model = keras.Sequential(
        [
            dense("a", 5),
            layers.Reshape((5, 1)),
            layers.Conv1D(2, 3, name="b"),
            layers.Flatten(),
            keras.Sequential([dense("c"), dense("d")], name="inner"),
            dense("e"),
        ]
    )
    model(np.zeros((1, 4)))
    return model


class Special(layers.Dense):
    """A subclass that changes nothing in `call`."""


EXCLUDED = {
    "name": (lambda model: "a", ["a"]),
    "names": (lambda model: ["a", "c"], ["a", "c"]),
    "type": (lambda model: [layers.Conv1D], ["b"]),
    "base type": (lambda model: layers.Dense, ["a", "c", "d", "e"]),
    "instance": (lambda model: (model.layers[2],), ["b"]),
    "instance in a nested model": (lambda model: [model.get_layer("inner").layers[1]], ["d"]),
    "nested model's name": (lambda model: ["inner"], ["c", "d"]),
    "nested model": (lambda model: model.get_layer("inner"), ["c", "d"]),
    "a mixture": (lambda model: ["a", layers.Conv1D, model.layers[-1]], ["a", "b", "e"]),
    "nothing": (lambda model: [], []),
}


@pytest.mark.parametrize("case", EXCLUDED)
def test_excluded_layers_step_explicitly(case):
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    model = deep()
    exclude, expected = EXCLUDED[case]
    options = {"exclude": exclude(model), "final_layer": "implicit"}
    assert explicit_layers(model, x, **options) == expected


def test_a_type_excludes_its_subclasses_and_not_its_bases():
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    model = keras.Sequential([Special(3, name="a"), dense("b"), dense("c")])
    assert explicit_layers(model, x, exclude=Special) == ["a", "c"]


def test_an_excluded_layer_is_found_in_a_model_that_is_not_built_yet():
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")

    class Lazy(keras.Model):
        def build(self, input_shape):
            self.hidden = [dense("a"), dense("b"), dense("c")]

        def call(self, x):
            for layer in self.hidden:
                x = layer(x)
            return x

    model = Lazy()
    with ImplicitGradientTape(model, exclude="b", solver=solvers.Exact()) as tape:
        loss = tf.reduce_mean(model(x) ** 2)
    directions = tape.gradient(loss, model.trainable_variables)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(x) ** 2)
    gradients = tape.gradient(loss, model.trainable_variables)
    assert not np.allclose(directions[0], gradients[0])
    assert_close_weights(directions[2:], gradients[2:], 1e-5)
