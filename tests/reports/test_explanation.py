"""`fit` says once, in one line, how much steps implicitly and which layer is slowest."""

import collections
import logging
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import MODES

import keras_proxprop
from keras_proxprop import ProxProp, StepMonitor

L = keras.layers


def compiled(*layers, **kwargs):
    model = keras.Sequential([keras.Input((8, 2)), *layers, L.Dense(2, name="last")])
    model.compile(**{"optimizer": ProxProp(), "loss": "mse", "jit_compile": False, **kwargs})
    return model


def net(**kwargs):
    return compiled(L.Dense(3, "relu", name="hidden"), **kwargs)


def data(model, rows=20):
    return np.zeros((rows, *model.input_shape[1:])), np.zeros((rows, *model.output_shape[1:]))


def fit(model, **kwargs):
    return model.fit(*data(model), **{"batch_size": 8, "verbose": 2, **kwargs})


@pytest.fixture
def lines(capsys):
    """Function that returns the lines that were printed of this since it was last called."""
    return lambda: [x for x in capsys.readouterr().out.splitlines() if "implicitly" in x]


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_the_line_is_what_summary_says(mode, lines):
    layers = [L.SeparableConv1D(5, 3, name="separable"), L.Conv1D(12, 3, name="large")]
    model = compiled(*layers, L.Dense(7, name="dense"), **MODES[mode])
    dataset = tf.data.Dataset.from_tensor_slices(data(model, 64)).batch(64)
    model.fit(dataset, verbose=1)
    (line,) = lines()
    rows = keras_proxprop.summary(model, 64, print_fn=lambda line: None)
    implicit = [row for row in rows if row.step == "implicit"]
    share = sum(row.weights for row in implicit) / model.count_params()
    extra, own = collections.Counter(), collections.Counter()
    for row in implicit:
        extra[row.name] += row.extra
        own[row.name] += row.backpropagation
    slowest = max(own, key=lambda name: extra[name] + own[name])
    said = re.search(r"ProxProp: (\S+)% .*'(\w+)'.* of (\S+) ×", line).groups()
    assert said == (f"{share:.1%}"[:-1], slowest, f"{extra[slowest] / own[slowest]:.2f}")


def test_a_second_fit_and_a_monitor_say_it_no_second_time(lines):
    model = net()
    fit(model, epochs=2, callbacks=[StepMonitor()])
    assert len(lines()) == 1
    fit(model)
    fit(model, batch_size=20, callbacks=[StepMonitor()])
    assert not lines()
    model.compile(optimizer=ProxProp(), loss="mse", jit_compile=False)
    fit(model)
    assert len(lines()) == 1


def test_a_fit_that_shows_nothing_says_nothing_and_the_next_one_does(lines):
    model = net()
    fit(model, verbose=0)
    fit(model, verbose=0)
    assert not lines()
    fit(model)
    assert len(lines()) == 1
    fit(model)
    assert not lines()


def test_a_loop_of_the_users_says_nothing(lines):
    model = net()
    x, y = data(model, 8)
    model.train_on_batch(x, y)
    with keras_proxprop.ImplicitGradientTape(
        model, **model.optimizer.step_arguments()
    ) as tape:
        loss = tf.reduce_mean(model(x))
    model.optimizer.apply(tape.gradient(loss, model.trainable_weights))
    # After a `fit` with another optimizer, too.
    model.compile("sgd", loss="mse")
    fit(model)
    model.compile(ProxProp(), loss="mse", jit_compile=False)
    model.train_on_batch(x, y)
    assert not lines()


def test_another_optimizer_says_nothing(lines):
    fit(net(optimizer="adam"))
    assert not lines()


def test_where_nothing_steps_implicitly_the_warning_says_so(lines):
    with pytest.warns(UserWarning, match="No layer of model"):
        fit(net(optimizer=ProxProp(exclude=L.Layer)))
    assert not lines()


def test_without_interactive_logging_it_is_logged(lines, caplog):
    keras.config.disable_interactive_logging()
    try:
        with caplog.at_level(logging.INFO, "keras_proxprop"):
            fit(net())
    finally:
        keras.config.enable_interactive_logging()
    assert not lines()
    assert [r.name for r in caplog.records if "implicitly" in r.message] == ["keras_proxprop"]
