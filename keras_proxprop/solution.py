"""The direction that solves a problem, with a derivative for the tapes around it."""

import tensorflow as tf

from keras_proxprop.keras_seams.custom_gradient import custom_gradient
from keras_proxprop.solvers.exact import add
from keras_proxprop.solvers.gradient import Gradient
from keras_proxprop.tau import Tau


def solve(problem, rows, d, rest, solver, tau):
    """Returns what `solver.solve` returns, with the derivative of the exact solution.

    From `M P = G` with `M = AᵀA + I/τ` and `G = AᵀD + rest` follows `dP = M⁻¹ (dG - dM P)`.
    For a gradient `V` with respect to `P` one more solve is made, `U = M⁻¹ V`. The result is
    the derivative of `⟨U, G - M P⟩` with `U` and `P` held fixed. No tape looks into a solver.

    Args:
        problem: `Problem`.
        rows: its `Rows`.
        d, rest, solver, tau: as in `Solver.solve`.
    """
    if rows.closed_form or isinstance(solver, Gradient):
        return solver.solve(rows, d, tau, rest)
    d_fixed, rest_fixed = fixed((d, rest))
    direction, damped = solver.solve(problem.fixed().rows([d]), d_fixed, tau, rest_fixed)
    inputs = tf.nest.flatten(problem.inputs, expand_composites=True)
    inputs = [x for x in inputs if tf.is_tensor(x) and x.dtype.is_floating]
    sources = [*inputs, d, *(rest or [])]
    if not isinstance(tau.value, (str, float)):
        tau = Tau(tf.convert_to_tensor(tau.value))
        sources.append(tau.value)

    @custom_gradient
    def attached(*tensors):
        def gradient(*v):
            again = solver.without_refresh()
            u, _ = solve(problem, rows, tf.zeros_like(d), list(v), again, tau)
            p, _ = solve(problem, rows, d, rest, again, tau)
            with tf.GradientTape() as tape:
                tape.watch(sources)
                new = problem.rows()
                value = _dot(u, add(new.multiply_transposed(d), rest))
                if again.solves_with_rows:
                    value -= tf.reduce_sum(new.multiply(u) * new.multiply(p))
                    value -= _dot(u, p) * tau.shift(new)
            return [None] * len(direction) + tape.gradient(value, sources)

        return list(tensors[: len(direction)]), gradient

    return attached(*direction, *sources), damped


def fixed(nest):
    """Returns the same nest with tensors that are constants for every tape."""

    def stopped(x):
        return tf.stop_gradient(x) if tf.is_tensor(x) else x

    return tf.nest.map_structure(stopped, nest, expand_composites=True)


def _dot(left, right):
    return tf.add_n([tf.reduce_sum(a * b) for a, b in zip(left, right)])
