"""How a step knows of XLA, and what keeps graphs and XLA's code small."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close

import keras_proxprop
from keras_proxprop import xla
from keras_proxprop.solvers import Exact

L = keras.layers


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_a_step_knows_whether_xla_compiles_it(jit_compile):
    known = []

    @tf.function(jit_compile=jit_compile)
    def step(x):
        known.append(xla.by_xla())
        return tf.cond(x > 0, lambda: branch(x), lambda: x)

    def branch(x):
        known.append(xla.by_xla())
        return -x

    # As Keras does: the compiled function is called by one that is not.
    tf.function(lambda x: step(x))(tf.constant(1.0))
    assert len(known) >= 2
    assert set(known) == {jit_compile}
    assert not xla.by_xla()


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_traced_once_is_one_trace_for_all_sizes(jit_compile):
    traces = []

    @xla.traced_once
    def scaled(x, factor):
        traces.append(xla.by_xla())
        return x * factor

    @tf.function(jit_compile=jit_compile)
    def step(x):
        return scaled(x, 2.0), scaled(x[:1], 2.0), scaled(x, 3.0)

    x = np.random.default_rng(0).normal(size=(3, 4))
    for found, expected in zip(step(x), (2 * x, 2 * x[:1], 3 * x)):
        assert_close(found, expected, 1e-15)
    step(x[:2])
    # One for each of the constants 2.0 and 3.0.
    assert traces == [jit_compile] * 2


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_cond_on_sizes_takes_the_branch_that_the_sizes_say(jit_compile):
    @tf.function(input_signature=[tf.TensorSpec([None])], jit_compile=jit_compile)
    def step(x):
        large = tf.shape(x)[0] > 3
        return xla.cond_on_sizes(large, lambda: (x + 1, x), lambda: (x - 1, -x))

    for n, sign in ((2, -1), (5, 1)):
        one, other = step(tf.ones([n]))
        assert_close(one, np.full(n, 1 + sign), 0)
        assert_close(other, np.full(n, sign), 0)


def test_xla_compiles_only_the_branch_that_the_sizes_say():
    @tf.function(input_signature=[tf.TensorSpec([None, None])], jit_compile=True)
    def step(x):
        y = tf.matmul(x, x)
        large = tf.shape(y)[0] > 3
        return xla.cond_on_sizes(large, lambda: tf.sin(y), lambda: tf.cos(y))

    hlo = step.experimental_get_compiler_ir(tf.ones([5, 5]))(stage="hlo")
    assert "sine" in hlo
    assert "cosine" not in hlo
    # Were this set, TensorFlow would run `matmul` while it compiles.
    graph = step.get_concrete_function().graph.as_graph_def()
    (case,) = [node for node in graph.node if "Case" in node.op]
    assert not case.attr["_xla_propagate_compile_time_consts"].b


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
    name = "inference__inverse_factor"
    assert few.count(name) == many.count(name) > 0
    assert len(many) > len(few)
