"""How a step knows of XLA, and what keeps graphs and XLA's code small."""

import os
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close

import keras_proxprop
from keras_proxprop import xla
from keras_proxprop.rows import correlation
from keras_proxprop.rows.correlation import Axis
from keras_proxprop.solvers import Exact

L = keras.layers


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_a_step_knows_whether_xla_compiles_it(jit_compile):
    known = []

    @tf.function(jit_compile=jit_compile)
    def step(x):
        known.append(xla.for_cpu())
        return tf.cond(x > 0, lambda: branch(x), lambda: x)

    def branch(x):
        known.append(xla.for_cpu())
        return -x

    # As Keras does: the compiled function is called by one that is not.
    tf.function(lambda x: step(x))(tf.constant(1.0))
    assert len(known) >= 2
    only_cpus = not tf.config.list_logical_devices("GPU")
    assert set(known) == {jit_compile and only_cpus}
    assert not xla.for_cpu()


def test_beside_a_gpu_a_step_is_compiled_for_what_its_strategy_runs_on(monkeypatch):
    gpu = types.SimpleNamespace(device_type="GPU")
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda *_: [gpu])
    known = []

    def step(x):
        known.append(xla.for_cpu())
        return -x

    tf.function(step, jit_compile=True)(tf.constant(1.0))
    with tf.distribute.OneDeviceStrategy("/CPU:0").scope():
        tf.function(step, jit_compile=True)(tf.constant(1.0))
    assert known == [False, True]


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_traced_once_is_one_trace_for_all_sizes(jit_compile):
    traces = []

    @xla.traced_once
    def scaled(x, factor):
        traces.append(factor)
        return x * factor

    @tf.function(jit_compile=jit_compile)
    def step(x):
        return scaled(x, 2.0), scaled(x[:1], 2.0), scaled(x, 3.0)

    x = np.random.default_rng(0).normal(size=(3, 4))
    for found, expected in zip(step(x), (2 * x, 2 * x[:1], 3 * x)):
        assert_close(found, expected, 1e-15)
    step(x[:2])
    assert traces == [2.0, 3.0]


def test_a_gram_matrix_that_xla_makes_on_a_cpu_has_no_filter_gradient():
    # It would run forty times as long in the branch of a step that refreshes memory.
    axes = [Axis(3, 1, 1, 1)] * 2
    gram = tf.function(lambda images: correlation.gram(images, axes), jit_compile=True)
    graph = gram.get_concrete_function(tf.zeros([4, 8, 8, 2])).graph
    kinds = {op.type for op in graph.get_operations()}
    if not tf.config.list_logical_devices("GPU"):
        assert "Conv2D" in kinds
        assert not any("BackpropFilter" in kind for kind in kinds)


def functions_of_a_step(layers):
    """Returns the names of the functions in the graph of an exact step, without numbers."""
    model = keras.Sequential([keras.Input((9,))] + [L.Dense(7 + i) for i in range(layers)])

    @tf.function(input_signature=[tf.TensorSpec([None, 9])])
    def step(x):
        with keras_proxprop.ImplicitGradientTape(model, solver=Exact()) as tape:
            loss = tf.reduce_mean(model(x, training=True) ** 2)
        return tape.gradient(loss, model.trainable_variables)

    library = step.get_concrete_function().graph.as_graph_def().library
    return [function.signature.name.strip("_0123456789") for function in library.function]


def test_more_layers_need_no_more_code_to_factorize():
    few, many = functions_of_a_step(2), functions_of_a_step(4)
    name = "inference_inverse_factor"
    assert few.count(name) == many.count(name) > 0
    assert len(many) > len(few)


def test_a_run_compiles_its_step_once_and_once_for_the_smaller_last_batch(tmp_path):
    program = pathlib.Path(__file__).with_name("compilations.py")
    flags = {"XLA_FLAGS": f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text"}
    command = [sys.executable, str(program), str(tmp_path)]
    printed = subprocess.check_output(command, env=os.environ | flags, text=True)
    # Later calls of `fit`, with steps that refresh memory and steps that do not, need no more.
    assert printed.split() == ["2", "0", "0"]
