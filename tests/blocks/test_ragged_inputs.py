"""Sparse and ragged ids step as dense ones; other layers on such inputs step explicitly."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close_weights, weights_of
from keras import layers
from sparse_cases import directions, sequential, sparse_and_dense, subclassed

from keras_proxprop import ProxProp
from keras_proxprop.reports.summary import layer_reports


def layer_scale():
    return next(
        layer
        for layer in keras.applications.ConvNeXtTiny(weights=None, include_top=False).layers
        if type(layer).__name__ == "LayerScale"
    )


IDS = [layers.Embedding, layers.ReversibleEmbedding]


@pytest.mark.parametrize("layer_class", IDS)
@pytest.mark.parametrize("kind", ["sparse", "ragged"])
def test_lookups_of_sparse_and_ragged_ids_are_those_of_dense_ones(layer_class, kind):
    dense = np.random.default_rng(0).integers(0, 5, (6, 4))
    if kind == "sparse":
        # What is missing is looked up as token 0.
        ids = tf.sparse.from_dense(dense)
    else:
        ids = tf.RaggedTensor.from_tensor(dense, ragged_rank=1)

    def mean(x):
        return x.flat_values if isinstance(x, tf.RaggedTensor) else x

    layer = layer_class(5, 3)

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.layer, self.last = layer, layers.Dense(2)

        def call(self, x):
            return self.last(mean(self.layer(x)))

    model = Model()
    model(dense)
    found = [directions(model, x) for x in (ids, dense)]
    assert_close_weights(*([tf.convert_to_tensor(d) for d in ds] for ds in found), 1e-6)


RAGGED = {
    "batch": layers.BatchNormalization,
    "layer": layers.LayerNormalization,
    "rms": layers.RMSNormalization,
}


@pytest.mark.filterwarnings("ignore:No layer of model")
@pytest.mark.parametrize("kind", RAGGED)
def test_what_takes_ragged_inputs_with_adam_steps_explicitly_on_them(kind):
    values = np.random.default_rng(0).normal(size=(13, 4)).astype("float32")
    x = tf.RaggedTensor.from_row_lengths(values, [2, 3, 1, 4, 2, 1])

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.layer, self.last = RAGGED[kind](name="layer"), layers.Dense(2)

        def call(self, x):
            return self.last(tf.reduce_mean(self.layer(x), axis=1))

    model = Model()
    model(x)
    ours = directions(model, x)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(model(x)))
    plain = tape.gradient(loss, model.trainable_variables)
    assert_close_weights(ours, plain, 1e-5)
    model.compile(ProxProp(), loss="mse", jit_compile=False)
    model.fit(x, np.zeros((6, 2)), verbose=0)
    assert layer_reports(model, 4)[0].step == "explicit: its inputs are ragged"


def test_a_layer_scale_of_sparse_inputs_steps_explicitly():
    sparse, _ = sparse_and_dense()
    kind = type(layer_scale())
    model = keras.Sequential([keras.Input((40,), sparse=True), kind(0.1, 40, name="scale")])
    for layer in sequential().layers:
        model.add(layer)
    assert np.isfinite(directions(model, sparse)[0]).all()
    report = layer_reports(model)[0]
    assert (report.name, report.step) == ("scale", "explicit: its inputs are sparse")


def trained(x, wrap):
    """Returns the weights of a model after three steps, which have moved them."""
    keras.utils.set_random_seed(1)
    model, optimizer = subclassed(), ProxProp(memory=None)
    weights, before = model.trainable_variables, weights_of(model)
    optimizer.build(weights)
    step = wrap(lambda x: optimizer.apply(directions(model, x), weights))
    for _ in range(3):
        step(x)
    assert all((a != b).any() for a, b in zip(weights_of(model), before, strict=True))
    return weights_of(model)


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_a_loop_of_ones_own_steps_on_sparse_inputs_as_on_dense_ones(wrap):
    found = [trained(x, wrap) for x in sparse_and_dense()]
    assert len(found[0]) == 4
    assert_close_weights(*found, 1e-4)
