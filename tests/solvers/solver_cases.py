"""Problems, and independent solves of them."""

import numpy as np
import scipy.linalg
import tensorflow as tf

from keras_proxprop import solvers
from keras_proxprop.rows.matrix import MatrixRows
from keras_proxprop.solvers.auto import Auto
from keras_proxprop.tau import Tau

SOLVERS = {
    "exact": solvers.Exact(),
    "primal": solvers.Exact("primal"),
    "dual": solvers.Exact("dual"),
    "auto": Auto(),
}
# Rows, inputs, columns.
SHAPES = [
    (1, 1, 1),
    (1, 7, 3),
    (7, 1, 3),
    (3, 20, 30),
    (20, 3, 30),
    (9, 9, 2),
    (8, 40, 5),
    (40, 8, 12),
]


class Problem:
    """A random `A`, `D` and rest of the gradient; the bias's ones are `A`'s last column."""

    def __init__(self, count, inputs, columns, bias=True, seed=0):
        random = np.random.default_rng([seed, count, inputs, columns])
        self.x = random.normal(size=[count, inputs])
        self.bias = bias
        self.d = random.normal(size=[count, columns])
        self.rest = random.normal(size=[inputs + bias, columns])

    @property
    def a(self):
        return np.column_stack([self.x, np.ones(len(self.x))]) if self.bias else self.x

    def rows(self, dtype=tf.float64):
        return MatrixRows(tf.constant(self.x, dtype), self.bias)


def split(p, bias):
    return [p[:-1], p[-1:]] if bias else [p]


def direction(solver, rows, d, tau, rest=None, dtype=tf.float64):
    """Returns a solver's direction, stacked to `[features, columns]`, and if it was damped."""
    if rest is not None:
        rest = split(tf.cast(rest, dtype), rows.bias)
    p, damped = solver.solve(rows, tf.cast(d, dtype), Tau(tf.constant(tau, dtype)), rest)
    return tf.concat(p, axis=0), damped


def dense_solve(a, d, tau, rest=0.0):
    """Returns `(AᵀA + I/τ)⁻¹ (AᵀD + rest)` by SciPy."""
    matrix = a.T @ a + np.eye(a.shape[1]) / tau
    return scipy.linalg.solve(matrix, a.T @ d + rest, assume_a="pos")


def svd_solve(a, d, tau):
    """The same by singular values, which no degeneracy of `A` and no `tau` upsets."""
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    return vt.T @ ((s / (s**2 + 1 / tau))[:, None] * (u.T @ d))


def unknown(count, features):
    """Returns rows that have a size and no numbers: for questions about costs."""
    with tf.Graph().as_default():
        return MatrixRows(tf.compat.v1.placeholder(tf.float32, [count, features]), False)
