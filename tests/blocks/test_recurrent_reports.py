"""What is said of recurrent layers: which of them step, and why others do not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from recurrent_cases import INPUTS, TAU, TIME, WRAPS, objective

from keras_proxprop import ImplicitGradientTape, ProxProp, StepMonitor
from keras_proxprop.reports.summary import layer_reports


class OwnLoop(layers.LSTM):
    def inner_loop(self, *args, **kwargs):
        return super().inner_loop(*args, **kwargs)


class OwnCell(layers.SimpleRNNCell):
    def call(self, *args, **kwargs):
        return super().call(*args, **kwargs)


EXPLICIT = {
    "recurrent_dropout": lambda: layers.GRU(2, recurrent_dropout=0.5),
    "dropout with implementation=1, which masks every gate's inputs": lambda: layers.RNN(
        layers.LSTMCell(2, dropout=0.5, implementation=1)
    ),
    "OwnLoop overrides inner_loop()": lambda: OwnLoop(2),
    "OwnCell overrides call()": lambda: layers.RNN([layers.LSTMCell(2), OwnCell(2)]),
}


@pytest.mark.parametrize("reason", EXPLICIT)
def test_what_cannot_step_implicitly_says_why_and_trains(reason):
    model = keras.Sequential([keras.Input((TIME, INPUTS)), layers.Dense(INPUTS)])
    model.add(EXPLICIT[reason]())
    model.add(layers.Dense(1))
    reports = layer_reports(model)
    assert reports[0].step == "implicit"
    assert {r.step for r in reports[1:-1]} == {f"explicit: {reason}"}
    model.compile(ProxProp(), loss="mse", jit_compile=False)
    before = model.get_weights()
    model.fit(tf.random.normal([4, TIME, INPUTS]), tf.zeros([4, 1]), verbose=0)
    moved = [(a != b).any() for a, b in zip(before, model.get_weights())]
    assert np.mean(moved) > 0.9


def test_summary_names_layers_as_the_user_does():
    model = keras.Sequential(
        [
            keras.Input((TIME, 3)),
            layers.LSTM(5, return_sequences=True, name="first"),
            layers.Bidirectional(layers.GRU(4, return_sequences=True, name="second")),
            layers.RNN([layers.LSTMCell(2, name="a"), layers.SimpleRNNCell(3, name="b")]),
        ]
    )
    found = [
        (r.name, r.kind, r.step, r.row_count, r.features, r.weights)
        for r in layer_reports(model, batch_size=6)
    ]
    gru = [(24, 11, 11 * 8), (24, 6, 6 * 4), (24, 5, 5 * 4)]
    assert sorted(found) == sorted(
        [("first", "LSTM", "implicit", 24, 9, 9 * 20)]
        + [
            (f"{way}_second", "GRU", "implicit", *sizes)
            for way in ("forward", "backward")
            for sizes in gru
        ]
        + [("a", "LSTMCell", "implicit", 24, 11, 11 * 8)]
        + [("b", "SimpleRNNCell", "explicit: final layer", 0, 0, 6 * 3)]
    )


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_a_layer_before_a_final_recurrent_one_steps_implicitly(mode):
    first, last = layers.LSTM(4, return_sequences=True), layers.GRU(2)
    model, x = keras.Sequential([first, last]), tf.random.normal([5, TIME, 3])

    def plain():
        with tf.GradientTape() as tape:
            loss = objective(model(x))
        return tape.gradient(loss, model.trainable_variables)

    @WRAPS[mode]
    def implicit():
        with ImplicitGradientTape(model, tau=TAU) as tape:
            loss = objective(model(x))
        return tape.gradient(loss, model.trainable_variables)

    model(x)
    same = [np.allclose(p, g, rtol=1e-4, atol=1e-5) for p, g in zip(implicit(), plain())]
    assert same == [False] * 3 + [True] * 3


def test_the_problems_of_a_gru_are_observed_one_by_one():
    model = keras.Sequential([layers.GRU(3, name="gru"), layers.Dense(1)])
    model.compile(ProxProp(memory=None), loss="mse", jit_compile=False)
    x, y = tf.random.normal([8, TIME, 2]), tf.zeros([8, 1])
    history = model.fit(
        x, y, batch_size=4, verbose=0, callbacks=[StepMonitor(1)], epochs=2
    ).history
    for weight in ("kernel/gates", "kernel/candidate", "recurrent_kernel/candidate"):
        (name,) = [n for n in history if n.endswith(f"/{weight}/residual")]
        assert max(history[name]) < 1e-4
