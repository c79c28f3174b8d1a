"""The examples in the docstrings of public names run as they stand there."""

import doctest
import inspect
import operator

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_proxprop
from keras_proxprop import blocks
from keras_proxprop.reports.summary import layer_reports

NAMES = [name for name in keras_proxprop.__all__ if name not in ("__version__", "solvers")]
NAMES += [f"solvers.{name}" for name in keras_proxprop.solvers.__all__] + ["StepMonitor.plot"]
NAMES += [f"blocks.{name}" for name in blocks.__all__ if name.endswith("Block")]


class MyLinearLayer(keras.layers.Dense):
    def call(self, inputs):
        return super().call(inputs)


class MyExperts(keras.layers.Layer):
    def build(self, shape):
        self.up = self.add_weight(shape=(shape[-1], 3))
        self.down = self.add_weight(shape=(3, shape[-1]))

    def call(self, inputs):
        hidden = keras.ops.silu(keras.ops.matmul(inputs, self.up))
        return keras.ops.matmul(hidden, self.down)


@pytest.fixture
def eagerly():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions")
@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_public_name_runs(name, eagerly, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(blocks, "_BLOCKS", dict(blocks._BLOCKS))
    random = np.random.default_rng(0)
    layers = [keras.layers.Dense(5, "tanh", name="dense"), MyLinearLayer(4), MyExperts()]
    layers.append(keras.layers.Dense(2, name="last"))
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(keras_proxprop.ProxProp(), "mse")
    given = {
        "keras": keras,
        "keras_proxprop": keras_proxprop,
        "model": model,
        "loss_fn": keras.losses.MeanSquaredError(),
        "x": random.normal(size=(8, 4)).astype("float32"),
        "y": random.normal(size=(8, 2)).astype("float32"),
        "MyLinearLayer": MyLinearLayer,
        "MyExperts": MyExperts,
    }
    text = inspect.getdoc(operator.attrgetter(name)(keras_proxprop))
    examples = doctest.DocTestParser().get_examples(text)
    assert examples
    for example in examples:
        exec(example.source, given)
    implicit = {report.kind for report in layer_reports(model) if report.step == "implicit"}
    for own in ("MyLinearLayer", "MyExperts"):
        assert (own in implicit) == (f"register_block({own}" in text)
