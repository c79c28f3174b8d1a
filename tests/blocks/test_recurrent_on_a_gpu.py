"""On a GPU a recurrent layer that has cuDNN's kernels keeps them, and steps explicitly."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import steps
from keras import layers
from recurrent_cases import INPUTS, TAU, TIME, objective

import keras_proxprop
from keras_proxprop import ImplicitGradientTape, ProxProp, machine

KEPT = "explicit: cuDNN's kernels are faster; use_cudnn=False makes it implicit"
KINDS = {"lstm": layers.LSTM, "gru": layers.GRU}
ARGUMENTS = {
    "as-it-is": {},
    "no-cudnn": {"use_cudnn": False},
    "activation": {"activation": "relu"},
    "tanh-of-tensorflow": {"activation": tf.tanh},
    "recurrent-activation": {"recurrent_activation": "hard_sigmoid"},
    "no-bias": {"use_bias": False},
    "unrolled": {"unroll": True},
}
CASES = {f"{k}-{a}": (KINDS[k], ARGUMENTS[a]) for k in KINDS for a in ARGUMENTS}
CASES["gru-reset-before"] = layers.GRU, {"reset_after": False}


@pytest.fixture
def on_a_gpu(monkeypatch):
    monkeypatch.setattr(machine, "of_device", lambda *_: machine.GPU)


def net(*recurrent):
    first = layers.Dense(INPUTS, name="first")
    last = layers.Dense(1, name="last")
    return keras.Sequential([keras.Input((TIME, INPUTS)), first, *recurrent, last])


@pytest.mark.parametrize("case", CASES)
def test_a_layer_that_keras_runs_on_cudnn_steps_explicitly(case, on_a_gpu, monkeypatch):
    # Keras itself says so of a layer that is made where there is a GPU: XLA cannot take it.
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda *_: ["GPU"])
    layer_class, arguments = CASES[case]
    layer = layer_class(3, name="recurrent", **arguments)
    model = net(layer)
    expected = "implicit" if layer.supports_jit else KEPT
    assert steps(model)["recurrent"] == expected
    assert steps(model)["first"] == "implicit"


def test_a_layer_of_a_bidirectional_one_keeps_them_too_and_cells_have_none(on_a_gpu):
    model = net(
        layers.Bidirectional(layers.LSTM(2, return_sequences=True, name="lstm")),
        layers.RNN([layers.LSTMCell(2, name="a"), layers.GRUCell(2, name="b")]),
    )
    found = steps(model)
    assert found["forward_lstm"] == found["backward_lstm"] == KEPT
    assert found["a"] == found["b"] == "implicit"


def test_only_the_default_solver_leaves_a_choice(on_a_gpu):
    assert steps(net(layers.LSTM(2)), optimizer=ProxProp(solver="exact"))["lstm"] == "implicit"


def test_a_summary_for_a_gpu_says_so_on_any_machine(capsys):
    model = net(layers.LSTM(2, name="lstm"))
    for device, shown in {"CPU": False, "GPU": True}.items():
        keras_proxprop.summary(model, device=device)
        (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("lstm")]
        assert (KEPT in line) == shown


def test_its_direction_is_its_gradient_and_with_use_cudnn_false_it_is_not(on_a_gpu):
    recurrent = functools.partial(layers.LSTM, 3, return_sequences=True)
    model = net(recurrent(name="kept"), recurrent(use_cudnn=False, name="lost"))
    x = tf.random.normal([5, TIME, INPUTS])

    def gradients(tape):
        with tape:
            loss = objective(model(x))
        return tape.gradient(loss, model.trainable_variables)

    pairs = zip(gradients(ImplicitGradientTape(model, tau=TAU)), gradients(tf.GradientTape()))
    same = [np.allclose(p, g, rtol=1e-4, atol=1e-6) for p, g in pairs]
    # The first layer, and the final one.
    assert same == [False] * 2 + [True] * 3 + [False] * 3 + [True] * 2
