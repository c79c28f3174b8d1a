"""What several test files use."""

import itertools
import types

import keras
import numpy as np
import tensorflow as tf

from keras_proxprop.keras_seams.notes import Note
from keras_proxprop.reports.summary import layer_reports

# How `compile` is told to run the training step. Keras's default is "auto": XLA wherever
# every layer supports it, and without a GPU never.
MODES = {
    "eager": {"run_eagerly": True},
    "graph": {"jit_compile": False},
    "default": {},
    "xla": {"jit_compile": True},
}
# Keras's default is one of these.
DIFFERENT_MODES = ["eager", "graph", "xla"]


def in_turns(*pools, rounds=1):
    """Returns combinations of values in which each value of each pool stands, but not all.

    For parameters that have little to do with one another: the product of them takes minutes,
    and finds what these find.

    Args:
        pools: lists of values.
        rounds: how often each value of the longest pool stands, with others of the others.
    """
    pools = [list(pool) for pool in pools]
    turns = itertools.product(range(rounds), range(max(map(len, pools))))
    # Each round shifts the pools against one another, so that no pair comes twice.
    return [
        tuple(pool[(i + k * turn) % len(pool)] for k, pool in enumerate(pools))
        for turn, i in turns
    ]


def relative_error(actual, expected):
    """Returns `‖actual - expected‖ / ‖expected‖`, NaN where an entry is not finite."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    return np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-300)


def assert_close(actual, expected, tolerance):
    """Fails where the relative error is above `tolerance`, or not a number."""
    error = relative_error(actual, expected)
    assert error <= tolerance, f"relative error {error:.2e}, allowed {tolerance:.0e}"


def implicit_direction(rows, gradients, tau):
    """Returns `(AᵀA + I/τ)⁻¹ g` in NumPy, for a kernel's gradient and maybe a bias's.

    Args:
        rows: the inputs of every call of a Dense layer, a list of arrays.
        gradients: `[kernel]` or `[kernel, bias]`: the whole gradient of the loss.
        tau: proximal step size.
    """
    a = np.concatenate([np.reshape(r, (-1, np.shape(r)[-1])) for r in rows])
    if len(gradients) == 2:
        a = np.column_stack([a, np.ones(len(a))])
    g = np.vstack([np.asarray(g) for g in gradients])
    p = np.linalg.solve(a.T @ a + np.eye(a.shape[1]) / tau, g)
    return [p[:-1], p[-1]] if len(gradients) == 2 else [p]


def record_call(block, *args, watch=lambda z: None, **kwargs):
    """Runs a block's `call`; returns its outputs and the `Use`s that it notes."""
    uses = []
    recorder = types.SimpleNamespace(uses=uses, watch=watch)
    return block.call(Note([recorder], [block]), *args, **kwargs), uses


def steps(model, batch_size=None, optimizer=None):
    """Returns what `summary` says of the step of each layer, by name."""
    return {r.name: r.step for r in layer_reports(model, batch_size, optimizer)}


class HandWrittenNet:
    """Dense layers and implicit steps written out, knowing nothing of the package.

    Args:
        weights: `{layer: (kernel, bias)}`.
        explicit: names of the layers that take explicit steps.
    """

    def __init__(self, weights, explicit=()):
        self.weights = {name: [tf.Variable(w) for w in pair] for name, pair in weights.items()}
        self.explicit = explicit

    def dense(self, name, a):
        self.rows[name].append(a)
        kernel, bias = self.weights[name]
        return tf.tensordot(a, kernel, 1) + bias

    def step(self, loss, optimizer, tau):
        """Makes one step on `loss()`, which calls `dense`."""
        self.rows = {name: [] for name in self.weights}
        with tf.GradientTape() as tape:
            value = loss()
        directions = tape.gradient(value, self.weights)
        for name in set(self.weights) - set(self.explicit):
            directions[name] = implicit_direction(self.rows[name], directions[name], tau)
        directions = [tf.convert_to_tensor(d) for d in tf.nest.flatten(directions)]
        optimizer.apply_gradients(zip(directions, tf.nest.flatten(self.weights)))


def inputs_of(layer, model, x):
    """Returns what a layer of a functional model sees of `x`, its dropout off."""
    return keras.Model(model.input, layer.input)(x).numpy()


def weights_of(model):
    return [w.numpy() for w in model.weights]


def assert_equal_weights(actual, expected):
    """Fails where two lists of arrays differ in a single bit."""
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected):
        np.testing.assert_array_equal(a, b)


def assert_close_weights(actual, expected, tolerance):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected):
        assert_close(a, b, tolerance)
