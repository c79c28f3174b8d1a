"""Recurrent layers for tests, and the Jacobian of Keras's own cells."""

import functools

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_proxprop import ImplicitGradientTape

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


_JACOBIANS = {}


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
    steps = range(x.shape[1])[:: -1 if layer.go_backwards else 1]
    states = initial_state
    jacobians = []
    for t in steps:
        taken = np.ones(len(x), bool) if mask is None else mask[:, t]
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
        # What a loop returns is nothing to it.
        key = cell, mask is None, self.layer.go_backwards
        if key not in _JACOBIANS:
            _JACOBIANS[key] = jacobian(self.layer, self.x, mask, self.initial)
        self.a = _JACOBIANS[key]

    def loss(self):
        return objective(self.model(self.x))

    def expected(self):
        curvature = self.a.T @ self.a + np.eye(len(self.gradient)) / TAU
        return np.linalg.solve(curvature, self.gradient)
