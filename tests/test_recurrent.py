"""Recurrent layers: what they compute, and their steps against a Jacobian of Keras's cells."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close
from keras import layers

from keras_proxprop import ImplicitGradientTape, ProxProp, StepMonitor, solvers
from keras_proxprop.blocks import find_block
from keras_proxprop.reporting import layer_reports

TAU = 0.7
BATCH, TIME, INPUTS, UNITS = 3, 4, 2, 2
CELLS = {
    "rnn": functools.partial(layers.SimpleRNNCell, UNITS),
    "rnn-no-bias-linear": functools.partial(
        layers.SimpleRNNCell, UNITS, use_bias=False, activation=None
    ),
    "lstm": functools.partial(layers.LSTMCell, UNITS),
    "lstm-no-bias": functools.partial(layers.LSTMCell, UNITS, use_bias=False),
    "gru": functools.partial(layers.GRUCell, UNITS),
    "gru-no-bias": functools.partial(layers.GRUCell, UNITS, use_bias=False),
    "gru-reset-before": functools.partial(layers.GRUCell, UNITS, reset_after=False),
    "gru-reset-before-no-bias": functools.partial(
        layers.GRUCell, UNITS, reset_after=False, use_bias=False
    ),
}
LAYERS = {"rnn": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}
WRAPS = {
    "eager": lambda f: f,
    "graph": tf.function,
    "xla": functools.partial(tf.function, jit_compile=True),
}
# Ways to loop, with a mask of which steps to take, or without.
MASK = np.array([[1, 1, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
LOOPS = {
    "plain": ({}, None),
    "sequences": ({"return_sequences": True}, None),
    "backwards": ({"return_sequences": True, "go_backwards": True}, None),
    "masked": ({"return_sequences": True, "return_state": True}, MASK),
    "masked-last": ({}, MASK),
    "masked-zeros": ({"return_sequences": True, "zero_output_for_mask": True}, MASK),
    "masked-zeros-last": ({"zero_output_for_mask": True}, MASK),
    "masked-backwards": (
        {"return_sequences": True, "go_backwards": True, "zero_output_for_mask": True},
        MASK,
    ),
}


def random_weights(layer, seed=0):
    """Gives a layer random weights that a few steps do not drive apart."""
    random = np.random.default_rng(seed)
    for weight in layer.weights:
        if weight.dtype.startswith("float"):
            weight.assign(random.normal(size=weight.shape, scale=0.7))
    return layer


def data(*shape, seed=1):
    return tf.constant(np.random.default_rng(seed).normal(size=shape))


def built(cell, seed=0, **loop):
    layer = layers.RNN(cell, **loop)
    layer.build((BATCH, TIME, INPUTS))
    return random_weights(layer, seed)


def objective(outputs):
    """Returns a scalar that depends on all outputs in different ways."""
    total = 0.0
    for i, part in enumerate(tf.nest.flatten(outputs)):
        weights = tf.reshape(tf.range(1.0, tf.size(part) + 1, dtype=part.dtype), part.shape)
        total += tf.reduce_sum(tf.sin(part + 0.3 * weights) * (i + 1.0))
    return total


def jacobian(layer, x, mask, initial_state):
    """Returns `∂z/∂weights` of a layer of one cell, states and gates held fixed.

    The preactivations `z` are what the cell's own call gives to its activations.
    """
    cell, zs = layer.cell, []
    own = cell.activation, getattr(cell, "recurrent_activation", None)
    gru = isinstance(cell, layers.GRUCell)

    def seen(activation, gate):
        def call(z):
            zs.append(z)
            out = z if activation is None else tf.stop_gradient(activation(z))
            # With open reset gates the candidate's two products are seen as they are.
            return tf.ones_like(out) if gru and cell.reset_after and gate else out

        return call

    weights = [w.value for w in cell.trainable_variables]
    steps = range(TIME)[:: -1 if layer.go_backwards else 1]
    states = initial_state
    jacobians = []
    for t in steps:
        taken = np.ones(BATCH, bool) if mask is None else mask[:, t]
        zs.clear()
        with tf.GradientTape(persistent=True) as tape:
            cell.activation = seen(own[0], False)
            if own[1]:
                cell.recurrent_activation = seen(own[1], True)
            cell(x[:, t], states)
            cell.activation = own[0]
            if own[1]:
                cell.recurrent_activation = own[1]
            # An LSTM's last activation is its carry's.
            z = tf.stack(zs[:4], axis=1)[taken]
        if taken.any():
            parts = tape.jacobian(z, weights, experimental_use_pfor=False)
            parts = [np.reshape(p, [*z.shape, -1]) for p in parts]
            jacobians += separated(parts, weights) if gru and cell.reset_after else [parts]
        _, new = cell(x[:, t], states)
        states = [tf.where(taken[:, None], n, s) for n, s in zip(new, states)]
    flat = [np.concatenate(parts, -1) for parts in jacobians]
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in flat])


def separated(parts, weights):
    """Returns the candidate's rows, the last of three, once for each of its products."""
    gates = [p[:, :2] for p in parts]
    of_inputs, of_states = ([p[:, 2:].copy() for p in parts] for _ in range(2))
    of_inputs[1][:] = of_states[0][:] = 0
    if len(parts) == 3:
        half = parts[2].shape[-1] // 2
        of_inputs[2][..., half:] = of_states[2][..., :half] = 0
    return [gates, of_inputs, of_states]


def directions(model, x, loss, wrap=lambda f: f, **options):
    """Returns the tape's directions, all entries of the weights in one vector."""
    options.setdefault("final_layer", "implicit")

    @wrap
    def step():
        with ImplicitGradientTape(model, tau=TAU, **options) as tape:
            value = loss()
        return tape.gradient(value, model.trainable_variables)

    return np.concatenate([np.reshape(p, [-1]) for p in step()])


class Case:
    """A recurrent layer in a model, and the Jacobian of its cell in float64."""

    def __init__(self, cell, loop):
        arguments, mask = LOOPS[loop]
        self.layer = built(CELLS[cell](), **arguments)
        self.x = data(BATCH, TIME, INPUTS)
        self.initial = [
            data(BATCH, UNITS, seed=s)
            for s, _ in enumerate(keras.tree.flatten(self.layer.cell.state_size))
        ]
        self.mask = mask

        class Model(keras.Model):
            def __init__(model):
                super().__init__()
                model.recurrent = self.layer

            def call(model, x):
                return model.recurrent(x, mask=mask, initial_state=self.initial)

        self.model = Model()
        self.model(self.x)
        with tf.GradientTape() as tape:
            loss = self.loss()
        gradients = tape.gradient(loss, self.model.trainable_variables)
        self.gradient = np.concatenate([np.reshape(g, [-1]) for g in gradients])
        self.a = jacobian(self.layer, self.x, mask, self.initial)

    def loss(self):
        return objective(self.model(self.x))

    def expected(self):
        curvature = self.a.T @ self.a + np.eye(len(self.gradient)) / TAU
        return np.linalg.solve(curvature, self.gradient)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("cell", CELLS)
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


@pytest.mark.parametrize("wrap", ["graph", "xla"])
@pytest.mark.parametrize("loop", ["masked", "unrolled"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "gru-reset-before"])
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
                outputs = block.call(lambda inputs, z, part: z, x, **arguments)
            else:
                outputs = layer(x, **arguments)
            value = objective(outputs)
        after = [v.numpy() for v in variables]
        results.append((outputs, flat(outputs) + [tape.gradient(value, x)] + after))
    tf.nest.assert_same_structure(results[0][0], results[1][0])
    for own, ours in zip(results[0][1], results[1][1]):
        np.testing.assert_allclose(ours, own, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("unroll", [False, True], ids=["loop", "unrolled"])
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("cell", [*CELLS, "stack"])
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


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "gru-reset-before"])
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


def test_a_cell_in_two_layers_steps_explicitly(float64):
    first, x = built(CELLS["gru"](), return_sequences=True), data(BATCH, TIME, INPUTS)
    second = layers.RNN(first.cell)
    model = Model([first, second], lambda x, first, second: second(first(x)))
    check(model, x, [], wrap=tf.function)


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
        (r.name, r.kind, r.step, r.rows, r.features, r.weights)
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
    model.compile(ProxProp(), loss="mse", jit_compile=False)
    x, y = tf.random.normal([8, TIME, 2]), tf.zeros([8, 1])
    history = model.fit(
        x, y, batch_size=4, verbose=0, callbacks=[StepMonitor(1)], epochs=2
    ).history
    for weight in ("kernel/gates", "kernel/candidate", "recurrent_kernel/candidate"):
        (name,) = [n for n in history if n.endswith(f"/{weight}/residual")]
        assert max(history[name]) < 1e-4
