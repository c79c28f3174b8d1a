"""Reports know a recurrent layer by its name, and the batch size that it is made for."""

import keras
import numpy as np
import pytest
from scenarios import compiled, fit

import keras_proxprop
from keras_proxprop import ProxProp, StepMonitor

L = keras.layers
X = np.random.default_rng(0).normal(size=(16, 6, 3)).astype("float32")
Y = X[:, 0, :2]


class Subclassed(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.last = layer, L.Dense(2)

    def call(self, x):
        return self.last(self.layer(x))


def functional(layer):
    inputs = keras.Input(batch_shape=(8, 6, 3))
    return keras.Model(inputs, L.Dense(2)(layer(inputs)))


def sequential(layer):
    return keras.Sequential([keras.Input(batch_shape=(8, 6, 3)), layer, L.Dense(2)])


STATEFUL = {
    "lstm": lambda: L.LSTM(4, stateful=True),
    "gru": lambda: L.GRU(4, stateful=True),
    "stack": lambda: L.RNN([L.GRUCell(4), L.LSTMCell(3)], stateful=True),
}


def rows_of(reports):
    return {report.row_count for report in reports if report.step == "implicit"}


@pytest.mark.parametrize("make", [functional, sequential, Subclassed])
@pytest.mark.parametrize("layer", STATEFUL)
def test_a_summary_is_of_the_batch_size_that_a_model_is_made_for(make, layer):
    model = compiled(make(STATEFUL[layer]()), ProxProp(), run_eagerly=True)
    fit(model, X, Y)
    lines = []
    # Eight items of six steps; of 32 a stateful layer takes none.
    assert rows_of(keras_proxprop.summary(model, print_fn=lines.append)) == {8 * 6}
    assert "batch size 8" in lines[0]


def test_a_fixed_batch_size_is_that_of_a_summary_without_state_too():
    model = compiled(sequential(L.LSTM(4)), ProxProp())
    quiet = {"print_fn": lambda line: None}
    assert rows_of(keras_proxprop.summary(model, **quiet)) == {8 * 6}
    assert rows_of(keras_proxprop.summary(model, 5, **quiet)) == {5 * 6}


NAMED = {
    "LSTM": lambda: L.LSTM(4, name="mine"),
    "SimpleRNN": lambda: L.SimpleRNN(4, name="mine"),
    "RNN": lambda: L.RNN(L.LSTMCell(4, name="cell"), name="mine"),
}


@pytest.mark.parametrize("make", NAMED.values(), ids=NAMED)
def test_a_monitor_calls_a_recurrent_layer_as_the_summary_does(make):
    model = compiled(sequential(make()), ProxProp())
    logs = fit(model, X, Y, callbacks=[StepMonitor()]).history
    named = {key.split("/")[0] for key in logs if key.endswith("/cosine")}
    reports = keras_proxprop.summary(model, print_fn=lambda line: None)
    assert named == {report.name for report in reports if report.step == "implicit"}
    assert named == {"mine"}
