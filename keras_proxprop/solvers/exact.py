"""The exact step by a Cholesky factorization, of the smaller of two matrices."""

import keras
import tensorflow as tf

from keras_proxprop.solvers import cost
from keras_proxprop.solvers.factorization import with_inverse
from keras_proxprop.solvers.solver import Solver


@keras.saving.register_keras_serializable(package="keras_proxprop")
class Exact(Solver):
    """Solves the proximal step exactly.

    With `R` rows and `F` features there are two equal forms (push-through identity):

        primal:  P = (AᵀA + I/τ)⁻¹ (AᵀD)      factorizes an F × F matrix
        dual:    P = Aᵀ (AAᵀ + I/τ)⁻¹ D       factorizes an R × R matrix

    The dual's last product takes the place of the weight gradient, which is then
    never computed: for batches smaller than a layer is wide the exact step costs
    little more than backpropagation.

    Args:
        form: "primal", "dual" or "auto" (default): whichever is cheaper for the
            layer's rows and features, at every batch size.

    Raises:
        ValueError: if `form` is none of these.

    Example:

    >>> optimizer = keras_proxprop.ProxProp(solver=keras_proxprop.solvers.Exact())

    Source: Frerix et al., *Proximal Backpropagation*, ICLR 2018, equation (12).
    """

    def __init__(self, form="auto"):
        if form not in ("auto", "primal", "dual"):
            raise ValueError(
                f"Argument `form` must be 'auto', 'primal' or 'dual'. Received: form={form!r}"
            )
        self.form = form

    def solve(self, rows, d, tau, rest=None):
        if self.form == "primal":
            return primal(rows, d, tau, rest)
        if self.form == "dual":
            return dual(rows, d, tau, rest)
        return cost.cheapest(
            rows,
            lambda count: cost.exact(rows, d.shape[-1], count),
            {
                "primal": lambda: primal(rows, d, tau, rest),
                "dual": lambda: dual(rows, d, tau, rest),
            },
        )

    def choose(self, rows, columns):
        costs = cost.exact(rows, columns, rows.count)
        form = min(costs, key=costs.get) if self.form == "auto" else self.form
        return form, costs[form]

    def get_config(self):
        return {"form": self.form}


def primal(rows, d, tau, rest=None):
    """P = (AᵀA + I/τ)⁻¹ (AᵀD + rest)"""
    # Not inside of the branches: see `Rows.choose_at_run_time`.
    gradient = add(rows.multiply_transposed(d), rest)

    def direction(inverse, rows, d, tau, rest):
        parts = gradient
        if d.dtype != gradient[0].dtype:
            parts = add(rows.multiply_transposed(d), rest)
        sizes = [part.shape[0] for part in parts]
        return tf.split(inverse(tf.concat(parts, axis=0)), sizes, axis=0)

    return _solve(direction, rows.gram(), rows.gram_in_float64, rows, d, tau, rest)


def dual(rows, d, tau, rest=None):
    """P = Aᵀ (AAᵀ + I/τ)⁻¹ (D - τ A rest) + τ rest"""

    def direction(inverse, rows, d, tau, rest):
        if rest is not None:
            rest = [tau * part for part in rest]
            d -= rows.multiply(rest)
        if d.shape[-1] <= rows.features:
            return add(rows.multiply_transposed(inverse(d)), rest)
        # Aᵀ (K⁻¹ D) = (K⁻¹ A)ᵀ D: the solve is against the side with fewer columns.
        a = inverse(rows.with_ones())
        p = [tf.matmul(a[:, : rows.x.shape[-1]], d, transpose_a=True)]
        if rows.bias:
            p.append(tf.matmul(a[:, -1:], d, transpose_a=True))
        return add(p, rest)

    rows = rows.matrix()
    return _solve(direction, rows.outer(), rows.outer_in_float64, rows, d, tau, rest)


def _solve(direction, gram, gram_in_float64, rows, d, tau, rest):
    """Returns `direction(inverse, ...)`, all of it in float64 where float32 does not do.

    There the right side and the products count too: what rounding leaves of them outside of
    the range of `A` is multiplied by τ.
    """

    def in_float64(inverse):
        rest64 = None if rest is None else [tf.cast(part, tf.float64) for part in rest]
        tau64 = tf.cast(tau, tf.float64)
        p = direction(inverse, rows.cast(tf.float64), tf.cast(d, tf.float64), tau64, rest64)
        return [tf.cast(part, d.dtype) for part in p]

    return with_inverse(
        gram,
        gram_in_float64,
        1 / tau,
        lambda inverse: direction(inverse, rows, d, tau, rest),
        in_float64,
    )


def add(direction, rest):
    """Returns the sum of two directions, the second of which may be `None`."""
    if rest is None:
        return direction
    return [p + r for p, r in zip(direction, rest)]
