"""Recurrent layers in models: wrapped, stacked, shared, frozen, regularized, reported."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, in_turns
from keras import layers
from recurrent_cases import (
    BATCH,
    CELLS,
    INPUTS,
    TAU,
    TIME,
    UNITS,
    WRAPS,
    built,
    data,
    directions,
    jacobian,
    objective,
)

from keras_proxprop import ProxProp, solvers


class Model(keras.Model):
    """A model of some layers and a function of these and the inputs."""

    def __init__(self, parts, run):
        super().__init__()
        self.parts = parts
        self._run = run

    def call(self, x):
        return self._run(x, *self.parts)


def check(model, x, members, extra=None, wrap=lambda f: f, **options):
    """Compares directions with dense solves; all other weights must have their gradients.

    Args:
        members: list of `(layer, calls)`: a recurrent layer of one cell, and of each of
            its calls the inputs and the initial states.
        extra: function without arguments of a part of the loss, or `None`.
    """

    def loss():
        value = objective(model(x)) + sum(model.losses)
        return value + extra() if extra else value

    model(x)
    with tf.GradientTape() as tape:
        value = loss()
    weights = model.trainable_variables
    gradients = [tf.convert_to_tensor(g).numpy() for g in tape.gradient(value, weights)]
    expected = {v.path: g for v, g in zip(weights, gradients)}
    for layer, calls in members:
        a = np.concatenate([jacobian(layer, np.asarray(x), None, s) for x, s in calls])
        own = layer.cell.trainable_variables
        gradient = np.concatenate([expected[w.path].reshape(-1) for w in own])
        p = np.linalg.solve(a.T @ a + np.eye(len(gradient)) / TAU, gradient)
        for w, part in zip(own, np.split(p, np.cumsum([np.prod(w.shape) for w in own])[:-1])):
            expected[w.path] = part
    expected = np.concatenate([expected[w.path].reshape(-1) for w in weights])
    assert_close(directions(model, x, loss, wrap, **options), expected, 1e-9)


def zeros(layer):
    return [tf.zeros([BATCH, UNITS], "float64")] * len(layer.state_size)


@pytest.mark.parametrize(
    "cell, wrap", in_turns(["rnn", "lstm", "gru", "gru-reset-before"], WRAPS)
)
def test_a_gradient_penalty_reaches_the_weights_through_the_gradient_in_it(
    float64, cell, wrap
):
    layer, x = built(CELLS[cell]()), data(BATCH, TIME, INPUTS)
    model = Model([layer], lambda x, layer: layer(x))

    def penalty():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = objective(model(x))
        return tf.reduce_sum(tape.gradient(y, x) ** 2)

    # Called in the loss, and in the penalty.
    check(model, x, [(layer, [(x, zeros(layer))] * 2)], penalty, WRAPS[wrap])


@pytest.mark.parametrize("solver", [solvers.Exact("primal"), solvers.Exact("dual")])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "gru-reset-before"])
def test_regularizers_are_preconditioned_with_the_rest(float64, cell, solver):
    regularizers = dict.fromkeys(
        ["kernel_regularizer", "recurrent_regularizer", "bias_regularizer"], "l2"
    )
    layer, x = built(CELLS[cell](**regularizers)), data(BATCH, TIME, INPUTS)
    model = Model([layer], lambda x, layer: layer(x))
    check(model, x, [(layer, [(x, zeros(layer))])], solver=solver)


@pytest.mark.filterwarnings("ignore:No layer of model")
@pytest.mark.parametrize("frozen", ["kernel", "recurrent_kernel", "bias"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "gru-reset-before"])
def test_frozen_weights_stay_and_the_others_are_the_problem(float64, cell, frozen):
    layer, x = built(CELLS[cell]()), data(BATCH, TIME, INPUTS)
    model = Model([layer], lambda x, layer: layer(x))
    model(x)
    getattr(layer.cell, frozen).trainable = False
    if isinstance(layer.cell, layers.GRUCell) and layer.cell.reset_after:
        # The Jacobian below splits by all three weights.
        before = getattr(layer.cell, frozen).numpy()
        model.compile(ProxProp("sgd"), loss="mse", jit_compile=False)
        model.fit(x, np.ones([BATCH, UNITS]), verbose=0)
        np.testing.assert_array_equal(getattr(layer.cell, frozen), before)
    else:
        check(model, x, [(layer, [(x, zeros(layer))])])


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "gru-reset-before"])
def test_two_calls_are_one_problem_and_a_bidirectional_layer_is_two(float64, cell):
    forward, backward = (built(CELLS[cell](), i, go_backwards=bool(i)) for i in range(2))
    both = layers.Bidirectional(forward, backward_layer=backward)
    both.build((BATCH, TIME, INPUTS))
    # It makes a copy of the first.
    both.forward_layer.set_weights(forward.get_weights())
    forward = both.forward_layer
    x = data(BATCH, TIME, INPUTS)
    model = Model([both], lambda x, both: both(x) + both(2 * x))
    calls = [(x, zeros(forward)), (2 * x, zeros(forward))]
    check(model, x, [(forward, calls), (backward, calls)])


def test_a_time_distributed_layer_is_one_problem(float64):
    layer, x = built(CELLS["lstm"]()), data(BATCH, 2, TIME, INPUTS)
    model = Model([layers.TimeDistributed(layer)], lambda x, layer: layer(x))
    calls = [(x[:, i], zeros(layer)) for i in range(2)]
    check(model, x, [(layer, calls)], wrap=tf.function)


@pytest.mark.parametrize("wrap", ["eager", "graph"])
def test_a_stack_steps_as_its_cells_do_one_upon_the_other(float64, wrap):
    cells = [CELLS[name]() for name in ("lstm", "gru", "rnn")]
    stacked = built(layers.StackedRNNCells(cells))
    x = data(BATCH, TIME, INPUTS)
    alone, inputs = [], [x]
    for cell in cells:
        alone.append(layers.RNN(cell, return_sequences=True))
        inputs.append(alone[-1](inputs[-1]))
    members = [(layer, [(x, zeros(layer))]) for layer, x in zip(alone, inputs)]
    model = Model([stacked], lambda x, layer: layer(x))
    assert_close(model(x), inputs[-1][:, -1], 1e-12)
    check(model, x, members, wrap=WRAPS[wrap])
    # As the final layer, it is the last cell that steps explicitly.
    check(model, x, members[:-1], wrap=WRAPS[wrap], final_layer="explicit")


def test_cells_called_one_step_at_a_time_are_one_problem(float64):
    layer, x = built(CELLS["gru"]()), data(BATCH, TIME, INPUTS)

    def run(x, cell):
        states = zeros(layer)
        for t in range(TIME):
            output, states = cell(x[:, t], states)
        return output

    model = Model([layer.cell], run)
    check(model, x, [(layer, [(x, zeros(layer))])], wrap=tf.function)


@pytest.mark.filterwarnings("ignore:No layer of model")
def test_a_cell_in_two_layers_steps_explicitly(float64):
    first, x = built(CELLS["gru"](), return_sequences=True), data(BATCH, TIME, INPUTS)
    second = layers.RNN(first.cell)
    model = Model([first, second], lambda x, first, second: second(first(x)))
    check(model, x, [], wrap=tf.function)
