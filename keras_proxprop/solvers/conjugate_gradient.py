"""A few iterations of conjugate gradients, every output column a run of its own."""

import keras
import numpy as np
import tensorflow as tf

from keras_proxprop import machine, replicas, tf32
from keras_proxprop.arguments import check_whole
from keras_proxprop.rows.arrays import diagonals
from keras_proxprop.solvers import price
from keras_proxprop.solvers.exact import add
from keras_proxprop.solvers.solver import Solver

# Rounding of an inner product, in units in the last place of the product of the norms.
_ROUNDING = 4
# Operations of an iteration: one or two products, and what is done with the vectors.
_OPERATIONS = 10


@keras.saving.register_keras_serializable(package="keras_proxprop")
class ConjugateGradient(Solver):
    """Solves the proximal step by conjugate gradients, from the current weights.

    All output columns share the matrix `AᵀA + I/τ`, and each column is a run of its own,
    with its own step lengths. An iteration costs one forward product and one weight
    gradient, or one product with `AᵀA` or `AAᵀ` where that is cheaper; the iterates are the
    same. Where the exact step has a closed form, the closed form is taken, which costs less
    than one iteration.

    Args:
        iterations: number of iterations, an int of at least 1. Defaults to `3`.

    Raises:
        ValueError: if `iterations` is not an int of at least 1.

    Example:

    >>> solver = keras_proxprop.solvers.ConjugateGradient(iterations=5)
    >>> optimizer = keras_proxprop.ProxProp(solver=solver)

    Source: Frerix et al., *Proximal Backpropagation*, ICLR 2018, section 3.2.
    """

    def __init__(self, iterations: int = 3) -> None:
        self.iterations = check_whole("iterations", iterations)

    def prices(self, rows, columns, count):
        features = rows.features
        prices = {
            "rows": self.iterations * 2.0 * count * features * columns,
            "gram": count * rows.gram_cost + self.iterations * features**2 * columns,
        }
        if rows.groups == 1:
            outer = count * rows.matrix_cost + count**2 * features
            prices["dual"] = outer + self.iterations * count**2 * columns
        more = self.iterations * _OPERATIONS * machine.in_force().launch
        more += price.right_side(rows, columns, count, split=2)
        return {form: cost + more for form, cost in prices.items()}

    def run(self, form, rows, d, tau, rest):
        shift = tau.shift(rows)

        def by_rows(p):
            image = rows.multiply_transposed(rows.multiply(rows.split(p)))
            return replicas.total(tf.concat(image, axis=0)) + shift * p

        def by_gram(p):
            return rows.side_by_side(tf32.matmul(gram, rows.by_group(p))) + shift * p

        if form == "dual":
            matrix, d = rows.matrix().of_all_replicas(), replicas.gathered(d)
            rest = rest and replicas.total(rest)
            p = dual_conjugate_gradient(matrix, d, shift, rest, self.iterations)
        else:
            if form == "gram":
                (gram,) = replicas.total_symmetric([rows.gram()])
            gradient = tf.concat(add(rows.multiply_transposed(d), rest), axis=0)
            product = by_gram if form == "gram" else by_rows
            p = conjugate_gradient(product, replicas.total(gradient), self.iterations)
            p = rows.split(p)
        if replicas.in_sync() > 1:
            # An iterate is not linear in the right side, so each replica makes all of it.
            p = [part / replicas.in_sync() for part in p]
        return p, tf.constant(False)

    def sent(self, form, rows, columns):
        if form == "dual":
            return rows.written_out + rows.count * columns
        gradient = rows.features * columns
        if form == "gram":
            return rows.triangles + gradient
        return (1 + self.iterations) * gradient

    def describe(self, form, rows, columns, price):
        return f"cg-{self.iterations}", price

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


def dual_conjugate_gradient(rows, d, shift, rest, iterations):
    """Returns what `conjugate_gradient` returns for the matrix `AᵀA + shift I` and the right
    side `AᵀD + rest`, from products with `AAᵀ`.

    Every vector of the iteration is `Aᵀu + s rest`. The iteration works with `u`; where there
    is a rest, `s` is one more row below `u`. Inner products of the vectors are `uᵀ K u`, with
    `K` the Gram matrix `AAᵀ`, to which a rest adds one row and one column. A column of `u` has
    converged where its inner product is nothing but rounding.

    Args:
        rows: `MatrixRows`.
        d, rest, shift: as in `Solver.solve`, with `shift` for 1/τ.
        iterations: number of iterations.
    """
    gram, u, kept = rows.outer(), d, 1.0
    if rest is not None:
        border = rows.multiply(rest)
        corner = tf.add_n([tf.reduce_sum(r**2, 0, keepdims=True) for r in rest])
        u = tf.concat([d, tf.ones_like(corner)], axis=0)
        # The matrix without its shift turns no vector into a multiple of the rest.
        kept = tf.concat([tf.ones_like(d[:, :1]), tf.zeros_like(d[:1, :1])], axis=0)

    def product(u):
        """Returns `K u`."""
        if rest is None:
            return tf32.matmul(gram, u)
        above = tf32.matmul(gram, u[:-1]) + border * u[-1:]
        below = tf.reduce_sum(border * u[:-1], 0, keepdims=True) + corner * u[-1:]
        return tf.concat([above, below], axis=0)

    size = tf.norm(gram) if rest is None else tf.norm(gram) + tf.norm(border) + tf.norm(corner)
    lengths = tf.sqrt(diagonals(gram))[:, None]
    if rest is not None:
        lengths = tf.concat([tf.zeros_like(d) + lengths, tf.sqrt(corner)], axis=0)

    def rounding(u):
        """Returns how large `uᵀ K u` may be where it is nothing but rounding."""
        # The second is the less where other rows are longer by far than those that `u` has.
        bounds = (
            size * tf.reduce_sum(u**2, axis=0),
            tf.reduce_sum(lengths * tf.abs(u), axis=0) ** 2,
        )
        return _ROUNDING * np.finfo(u.dtype.as_numpy_dtype).eps * tf.minimum(*bounds)

    solution, residual, direction = tf.zeros_like(u), u, u
    gram_direction = product(u)
    square = tf.reduce_sum(u * gram_direction, axis=0)
    for iteration in range(iterations):
        image = kept * gram_direction + shift * direction
        step = tf.math.divide_no_nan(square, tf.reduce_sum(gram_direction * image, axis=0))
        step = tf.where(square > rounding(residual), step, 0)
        solution += step * direction
        if iteration + 1 < iterations:
            residual -= step * image
            gram_residual = product(residual)
            previous, square = square, tf.reduce_sum(residual * gram_residual, axis=0)
            ratio = tf.math.divide_no_nan(square, previous)
            direction = residual + ratio * direction
            gram_direction = gram_residual + ratio * gram_direction
    if rest is None:
        return rows.multiply_transposed(solution)
    product = rows.multiply_transposed(solution[:-1])
    return [part + solution[-1:] * r for part, r in zip(product, rest)]
