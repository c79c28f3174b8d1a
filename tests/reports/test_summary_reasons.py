"""`summary` says why a layer steps explicitly."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import steps

from keras_proxprop import ProxProp
from keras_proxprop.reports.summary import layer_reports

layers = keras.layers


class Power(layers.Layer):
    """Not linear in its weight."""

    def build(self, shape):
        self.exponent = self.add_weight(shape=shape[-1:], initializer="ones")

    def call(self, x):
        return keras.ops.abs(x) ** self.exponent


class OwnCall(layers.Dense):
    def call(self, inputs):
        return super().call(inputs) * 2


def explained(make):
    """A model with one layer that cannot step implicitly, and one that can."""
    layer, shape = make()
    model = keras.Sequential([keras.Input(shape), layer, layers.Flatten(), layers.Dense(2)])
    return model, layer


def frozen():
    layer = layers.Dense(3)
    layer.trainable = False
    return layer, (6,)


def lora():
    layer = layers.Dense(3, lora_rank=2)
    return layer, (6,)


REASONS = {
    "overrides call": (lambda: (OwnCall(3), (6,)), "explicit: OwnCall overrides call()"),
    "no block": (lambda: (Power(), (4, 2)), "explicit: no block for Power"),
    "frozen": (frozen, "frozen"),
    "lora": (lora, "explicit: LoRA is enabled"),
}


@pytest.mark.parametrize("case", REASONS)
def test_a_row_says_why_a_layer_steps_explicitly(case):
    make, reason = REASONS[case]
    model, layer = explained(make)
    found = steps(model)
    assert found[layer.name] == reason
    assert found[model.layers[-1].name] == "explicit: final layer"


def test_frozen_weights_and_channels_first_are_told():
    # Built by hand: the CPU has no kernels to call it with.
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3, name="a"), layers.Dense(2)])
    model.layers[0].bias.trainable = False
    assert [(r.features, r.weights) for r in layer_reports(model)] == [(6, 18), (0, 8)]
    model.layers[0].kernel.trainable, model.layers[0].bias.trainable = False, True
    assert steps(model)["a"] == "explicit: its kernel is frozen"
    inputs = keras.Input((2, 5, 5))
    conv = layers.Conv2D(3, 3, data_format="channels_first", name="conv")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(conv)))
    assert steps(model)["conv"] == "explicit: data_format is 'channels_first'"


def test_excluded_shared_and_unused_layers_are_named_as_such():
    class Tied(layers.Dense):
        def build(self, input_shape):
            self._kernel, self.bias = first._kernel, None

    first, unused = layers.Dense(6, name="first"), layers.Dense(3, name="unused")
    tied, out = Tied(6, use_bias=False, name="tied"), layers.Dense(6, name="out")

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [first, tied, out, unused, layers.Dense(2, name="last")]
            unused.build((None, 6))

        def call(self, x):
            return self.parts[4](out(tied(first(x))))

    model = Model()
    model(np.zeros((2, 6)))
    assert steps(model, optimizer=ProxProp(exclude="out")) == {
        "first": "explicit: shares a weight with another layer",
        "out": "explicit: excluded",
        "unused": "explicit: not called",
        "last": "explicit: final layer",
    } | {"tied": "explicit: shares a weight with another layer"}


def test_a_layer_called_in_a_graph_of_its_own_says_so():
    class Mapped(layers.Layer):
        def build(self, input_shape):
            self.inner = layers.Dense(3, name="a")
            self.inner.build(input_shape[1:])

        def call(self, x):
            return tf.map_fn(self.inner, x)

    model = keras.Sequential([keras.Input((4, 6)), Mapped(), layers.Dense(2)])
    assert "tf.function or control flow" in steps(model)["a"]
