"""`summary` names, for every layer, the form of the step that `fit` then runs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_proxprop
from keras_proxprop import CurvatureMemory, ProxProp, machine, solvers
from keras_proxprop.memory.averaged_gram import Averaged
from keras_proxprop.problem import Problem
from keras_proxprop.solvers.auto import Auto

L = keras.layers


def dense():
    inputs = keras.Input((4, 12))
    query, key, value = (L.Dense(n, name=f"dense_{n}")(inputs) for n in (3, 50, 9))
    x = L.Concatenate()([query, key, value])
    x = L.EinsumDense("abc,cd->abd", (4, 7), bias_axes="bd", name="einsum")(x)
    x = L.Dense(40, "relu", name="wide")(L.Flatten()(x))
    return keras.Model(inputs, L.Dense(2, name="last")(x))


def convnet():
    return keras.Sequential(
        [
            keras.Input((9, 9, 3)),
            L.Conv2D(6, 3, padding="same", name="conv"),
            L.BatchNormalization(name="norm"),
            L.Conv2D(4, 3, strides=2, name="strided"),
            L.DepthwiseConv2D(3, name="depthwise"),
            L.Flatten(),
            L.Dense(2, name="last"),
        ]
    )


def sequence():
    return keras.Sequential(
        [
            keras.Input((6,)),
            L.Embedding(11, 5, name="embedding"),
            L.LSTM(4, name="lstm"),
            L.Dense(2, name="last"),
        ]
    )


OPTIMIZERS = {
    "default": lambda: ProxProp(),
    "no memory": lambda: ProxProp(memory=None),
    "all memory": lambda: ProxProp(memory=CurvatureMemory(layers="all")),
    "exact": lambda: ProxProp(solver="exact"),
    "dual": lambda: ProxProp(solver=solvers.Exact("dual")),
    "cg": lambda: ProxProp(solver="cg"),
}


@pytest.fixture
def ran(monkeypatch):
    """`{layer: form}` of the steps that were run, also where a graph chose between forms."""
    found, names, running = {}, [], []
    solve = Problem.solve

    def note(form):
        layers = list(names)
        tf.py_function(lambda: found.update(dict.fromkeys(layers, form)), [], [])

    def noting_solve(self, rows, *arguments):
        names[:] = [member.block.reported_as.name for member in self.members]
        if rows.closed_form:
            note("closed")
        return solve(self, rows, *arguments)

    def noting(run):
        def noting_run(self, form, rows, d, *arguments):
            if running:
                # A solver that another one solves with.
                return run(self, form, rows, d, *arguments)
            running.append(form)
            direction, damped = run(self, form, rows, d, *arguments)
            running.pop()
            note(self.describe(form, rows, d.shape[-1], 0.0)[0])
            return direction, damped

        return noting_run

    for solver in (solvers.Exact, Auto, solvers.ConjugateGradient, Averaged):
        monkeypatch.setattr(solver, "run", noting(solver.run))
    monkeypatch.setattr(Problem, "solve", noting_solve)
    return found


CASES = [(dense, name, False) for name in OPTIMIZERS] + [
    (dense, "no memory", True),
    (convnet, "default", False),
    (convnet, "no memory", False),
    (sequence, "no memory", False),
]


@pytest.mark.parametrize(
    "make, optimizer, batch_known", CASES, ids=[f"{m.__name__}-{o}-{k}" for m, o, k in CASES]
)
def test_the_form_of_every_layer_is_the_one_that_fit_runs(make, optimizer, batch_known, ran):
    model = make()
    model.compile(optimizer=OPTIMIZERS[optimizer](), loss="mse", jit_compile=False)
    for batch in (3, 60):
        data = (
            np.zeros((batch, *model.input_shape[1:])),
            np.zeros((batch, *model.output_shape[1:])),
        )
        data = tf.data.Dataset.from_tensor_slices(data).batch(
            batch, drop_remainder=batch_known
        )
        ran.clear()
        model.fit(data, verbose=0)
        rows = keras_proxprop.summary(model, batch, print_fn=lambda line: None)
        assert {r.name: r.solver for r in rows if r.step == "implicit"} == ran


@pytest.mark.parametrize("optimizer", ["default", "no memory"])
def test_a_summary_for_a_gpu_names_the_forms_that_a_step_takes_there(
    optimizer, monkeypatch, ran
):
    model = dense()
    rows = keras_proxprop.summary(
        model, 60, OPTIMIZERS[optimizer](), lambda line: None, device="GPU"
    )
    model.compile(optimizer=OPTIMIZERS[optimizer](), loss="mse", jit_compile=False)
    monkeypatch.setattr(machine, "of_device", lambda *_: machine.GPU)
    data = np.zeros((60, 4, 12)), np.zeros((60, 2))
    model.fit(tf.data.Dataset.from_tensors(data), verbose=0)
    assert {r.name: r.solver for r in rows if r.step == "implicit"} == ran


def test_the_rows_are_data_that_add_up_to_the_model():
    model = convnet()
    rows = keras_proxprop.summary(model, 8, print_fn=lambda line: None)
    assert sum(row.weights for row in rows) == sum(map(np.size, model.trainable_weights))
    assert [row.name for row in rows if row.step == "implicit"][:2] == ["conv", "norm"]
    assert "convnet" not in repr(rows) and "summary" in repr(rows)


def test_a_bias_along_other_axes_than_the_columns_is_a_row_of_its_own():
    rows = keras_proxprop.summary(dense(), print_fn=lambda line: None)
    assert [(r.weights, r.step) for r in rows if r.name == "einsum"] == [
        (62 * 7, "implicit"),
        (4 * 7, "explicit: outside of the layer's linear map"),
    ]
