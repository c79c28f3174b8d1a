"""A few iterations of conjugate gradients, every output column a run of its own."""

import keras
import numpy as np
import tensorflow as tf

from keras_proxprop.solvers import price
from keras_proxprop.solvers.exact import add
from keras_proxprop.solvers.solver import Solver

# How many units in the last place are lost of an inner product, in terms of the norms.
_ROUNDING = 4


@keras.saving.register_keras_serializable(package="keras_proxprop")
class ConjugateGradient(Solver):
    """Solves the proximal step by conjugate gradients, from the current weights.

    All output columns share the matrix `AᵀA + I/τ`, and each is a run of its own, with
    its own step lengths. An iteration costs one forward product and one weight
    gradient, or a product with `AᵀA` or with `AAᵀ` where that is cheaper: the iterates are
    the same. Where the exact step has a closed form it is taken: it costs less than an
    iteration.

    Args:
        iterations: number of iterations, an int of at least 1. Defaults to `3`.

    Raises:
        ValueError: if `iterations` is not an int of at least 1.

    Example:

    >>> solver = keras_proxprop.solvers.ConjugateGradient(iterations=5)
    >>> optimizer = keras_proxprop.ProxProp(solver=solver)

    Source: Frerix et al., *Proximal Backpropagation*, ICLR 2018, section 3.2.
    """

    def __init__(self, iterations=3):
        if not isinstance(iterations, int) or isinstance(iterations, bool) or iterations < 1:
            raise ValueError(
                "Argument `iterations` must be an integer of at least 1. "
                f"Received: iterations={iterations!r}"
            )
        self.iterations = iterations

    def solve(self, rows, d, tau, rest=None):
        if rows.closed_form:
            return rows.solve(d, tau, rest)
        shift = 1 / tau

        def from_rows():
            def product(p):
                image = rows.multiply_transposed(rows.multiply(rows.split(p)))
                return tf.concat(image, axis=0) + shift * p

            return primal(product)

        def from_gram():
            gram = rows.gram()

            def product(p):
                return rows.side_by_side(tf.matmul(gram, rows.by_group(p))) + shift * p

            return primal(product)

        def primal(product):
            gradient = tf.concat(add(rows.multiply_transposed(d), rest), axis=0)
            return rows.split(conjugate_gradient(product, gradient, self.iterations))

        def dual():
            matrix = rows.matrix()
            u = dual_conjugate_gradient(matrix.outer(), shift, d, self.iterations)
            return matrix.multiply_transposed(u)

        branches = {"rows": from_rows, "gram": from_gram, "dual": dual}
        return price.cheapest(
            rows, lambda count: self._costs(rows, d.shape[-1], count, rest), branches
        ), tf.constant(False)

    def choose(self, rows, columns):
        if rows.closed_form:
            return price.closed_form(rows, columns)
        costs = self._costs(rows, columns, rows.count)
        return f"cg-{self.iterations}", min(costs.values())

    def _costs(self, rows, columns, count, rest=None):
        features = rows.features
        costs = {
            "rows": self.iterations * 2.0 * count * features * columns,
            "gram": count * rows.gram_cost + self.iterations * features**2 * columns,
        }
        # The rest of a gradient is no combination of rows.
        if rows.groups == 1 and rest is None:
            outer = count * rows.matrix_cost + count**2 * features
            costs["dual"] = outer + self.iterations * count**2 * columns
        return costs

    def get_config(self):
        return {"iterations": self.iterations}


def conjugate_gradient(product, right, iterations):
    """Returns `iterations` steps of CG towards `product(x) = right`, from zero, per column."""
    x = tf.zeros_like(right)
    residual = direction = right
    square = tf.reduce_sum(residual**2, axis=0)
    for _ in range(iterations):
        image = product(direction)
        # A column that has converged has no direction left, and stays where it is.
        step = tf.math.divide_no_nan(square, tf.reduce_sum(direction * image, axis=0))
        x += step * direction
        residual -= step * image
        previous, square = square, tf.reduce_sum(residual**2, axis=0)
        direction = residual + tf.math.divide_no_nan(square, previous) * direction
    return x


def dual_conjugate_gradient(outer, shift, d, iterations):
    """Returns `U` such that `Aᵀ U` is what `conjugate_gradient` returns for the matrix
    `AᵀA + shift I` and the right side `Aᵀ D`, `outer` being `AAᵀ`.

    All that it works with is `Aᵀ` times something, whose inner products are those of `AAᵀ`.
    Where these are rounding only, a column has converged.
    """
    u = tf.zeros_like(d)
    rounding = _ROUNDING * np.finfo(outer.dtype.as_numpy_dtype).eps * tf.norm(outer)
    residual = direction = d
    outer_direction = tf.matmul(outer, d)
    square = tf.reduce_sum(d * outer_direction, axis=0)
    for iteration in range(iterations):
        image = outer_direction + shift * direction
        step = tf.math.divide_no_nan(square, tf.reduce_sum(outer_direction * image, axis=0))
        step = tf.where(square > rounding * tf.reduce_sum(residual**2, axis=0), step, 0)
        u += step * direction
        if iteration + 1 < iterations:
            residual -= step * image
            outer_residual = tf.matmul(outer, residual)
            previous, square = square, tf.reduce_sum(residual * outer_residual, axis=0)
            ratio = tf.math.divide_no_nan(square, previous)
            direction = residual + ratio * direction
            outer_direction = outer_residual + ratio * outer_direction
    return u
