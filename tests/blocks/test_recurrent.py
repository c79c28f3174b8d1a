"""Recurrent layers: what they compute, and their steps against a Jacobian of Keras's cells."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, in_turns, record_call
from keras import layers
from recurrent_cases import (
    BATCH,
    CELLS,
    INPUTS,
    LAYERS,
    LOOPS,
    TIME,
    UNITS,
    WRAPS,
    Case,
    built,
    data,
    directions,
    objective,
    random_weights,
)

from keras_proxprop import solvers
from keras_proxprop.blocks import find_block


@pytest.mark.parametrize("cell, loop", in_turns(CELLS, LOOPS, rounds=3))
@pytest.mark.filterwarnings("ignore:No layer of model")
def test_exact_step_is_a_dense_solve_with_the_jacobian_of_keras_s_cell(float64, cell, loop):
    c = Case(cell, loop)
    for form in ("primal", "dual"):
        solver = solvers.Exact(form)
        assert_close(directions(c.model, c.x, c.loss, solver=solver), c.expected(), 1e-9)
    cg = solvers.ConjugateGradient(40)
    assert_close(directions(c.model, c.x, c.loss, solver=cg), c.expected(), 1e-6)
    # As the final layer: AᵀD is the gradient of backpropagation through time.
    explicit = directions(c.model, c.x, c.loss, final_layer="explicit")
    assert_close(explicit, c.gradient, 1e-9)


@pytest.mark.parametrize(
    "cell, loop, wrap",
    in_turns(
        ["rnn", "lstm", "gru", "gru-reset-before"],
        ["masked", "unrolled"],
        ["graph", "xla"],
        rounds=2,
    ),
)
def test_a_step_is_the_same_however_it_is_run(float64, cell, loop, wrap):
    c = Case(cell, "masked")
    c.layer.unroll = loop == "unrolled"
    assert_close(directions(c.model, c.x, c.loss, WRAPS[wrap]), c.expected(), 1e-9)


def flat(nest):
    return [np.asarray(t) for t in tf.nest.flatten(nest)]


def assert_same_as_keras(layer, x, tolerance=1e-6, **arguments):
    """Fails where the block's outputs, or their gradient for `x`, are not the layer's."""
    results = []
    # Seeds, too, and the states of a stateful layer, which Keras counts as no variables.
    variables = layer.variables + (layer.states or [])
    state = [v.numpy() for v in variables]
    for recorded in (False, True):
        for variable, value in zip(variables, state):
            variable.assign(value)
        with tf.GradientTape() as tape:
            tape.watch(x)
            if recorded:
                block, why = find_block(layer)
                assert why is None
                outputs, _ = record_call(block, x, **arguments)
            else:
                outputs = layer(x, **arguments)
            value = objective(outputs)
        after = [v.numpy() for v in variables]
        results.append((outputs, flat(outputs) + [tape.gradient(value, x)] + after))
    tf.nest.assert_same_structure(results[0][0], results[1][0])
    for own, ours in zip(results[0][1], results[1][1]):
        np.testing.assert_allclose(ours, own, rtol=10 * tolerance, atol=tolerance)


# Every cell in one loop, and every loop with one cell of each kind.
COMPUTED = [(cell, "masked") for cell in CELLS] + [("stack", loop) for loop in LOOPS]


@pytest.mark.parametrize("unroll", [False, True], ids=["loop", "unrolled"])
@pytest.mark.parametrize("cell, loop", COMPUTED)
def test_block_computes_what_its_layer_computes(cell, loop, unroll):
    arguments, mask = LOOPS[loop]
    make = CELLS[cell] if cell in CELLS else stack
    layer = built(make(), unroll=unroll, **arguments)
    x = tf.cast(data(BATCH, TIME, INPUTS), tf.float32)
    zeros = layer.get_initial_state(BATCH)
    state = tf.nest.map_structure(lambda z: z + tf.random.normal(z.shape), zeros)
    for initial_state in (None, state):
        assert_same_as_keras(layer, x, mask=mask, initial_state=initial_state)


def stack():
    return layers.StackedRNNCells(
        [layers.LSTMCell(3), layers.GRUCell(2), layers.SimpleRNNCell(4)]
    )


@pytest.mark.parametrize("layer", LAYERS)
def test_a_stateful_layer_goes_on_where_it_was(layer):
    layer = LAYERS[layer](UNITS, stateful=True, return_sequences=True)
    layer.build((BATCH, TIME, INPUTS))
    random_weights(layer)
    assert_same_as_keras(layer, tf.cast(data(BATCH, TIME, INPUTS), tf.float32))


@pytest.mark.parametrize("layer", LAYERS)
def test_dropout_of_inputs_is_the_layer_s_own(layer):
    layer = LAYERS[layer](UNITS, dropout=0.5, seed=3)
    layer.build((BATCH, TIME, INPUTS))
    x = tf.cast(data(BATCH, TIME, INPUTS), tf.float32)
    assert_same_as_keras(layer, x, training=True)
    assert find_block(layer)[0].parts[0].weights


@pytest.mark.parametrize("layer", LAYERS)
def test_half_precision_is_the_layer_s_own(layer):
    layer = LAYERS[layer](UNITS, dtype="mixed_float16", return_sequences=True)
    layer.build((BATCH, TIME, INPUTS))
    x = tf.cast(data(BATCH, TIME, INPUTS), tf.float16)
    assert_same_as_keras(layer, x, tolerance=5e-3)
