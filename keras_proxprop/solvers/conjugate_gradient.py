"""A few iterations of conjugate gradients, every output column a run of its own."""

import keras
import tensorflow as tf

from keras_proxprop.solvers import cost
from keras_proxprop.solvers.exact import add
from keras_proxprop.solvers.solver import Solver


@keras.saving.register_keras_serializable(package="keras_proxprop")
class ConjugateGradient(Solver):
    """Solves the proximal step by conjugate gradients, from the current weights.

    All output columns share the matrix `AᵀA + I/τ`, and each is a run of its own, with
    its own step lengths. An iteration costs one forward product and one weight
    gradient, or a product with the Gram matrix where that is cheaper. Where the exact step
    has a closed form it is taken: it costs less than an iteration.

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
        gradient = add(rows.multiply_transposed(d), rest)
        shift = 1 / tau
        if self._gram_pays(rows, d.shape[-1]):
            gram = rows.gram()

            def product(p):
                product = tf.matmul(gram, rows.by_group(p))
                return rows.side_by_side(product) + shift * p
        else:

            def product(p):
                rows_p = rows.multiply(rows.split(p))
                return tf.concat(rows.multiply_transposed(rows_p), axis=0) + shift * p

        p = conjugate_gradient(product, tf.concat(gradient, axis=0), self.iterations)
        return rows.split(p), tf.constant(False)

    def choose(self, rows, columns):
        if rows.closed_form:
            return cost.closed_form(rows, columns)
        with_gram, without = self._costs(rows, columns, rows.count)
        return f"cg-{self.iterations}", min(with_gram, without)

    def _gram_pays(self, rows, columns):
        counts = cost.possible_counts(rows)
        # Where the batch size is unknown and matters, not without tracing both.
        return all(a < b for a, b in (self._costs(rows, columns, n) for n in counts))

    def _costs(self, rows, columns, count):
        features = rows.features
        with_gram = count * rows.gram_cost + self.iterations * features**2 * columns
        without = self.iterations * 2 * count * features * columns
        return with_gram, without

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
