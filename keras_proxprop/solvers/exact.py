"""The exact step by a Cholesky factorization, of the smaller of two matrices."""

import keras
import tensorflow as tf

from keras_proxprop.solvers import cost
from keras_proxprop.solvers.factorization import solve_shifted
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
    gradient = add(rows.multiply_transposed(d), rest)
    sizes = [part.shape[0] for part in gradient]
    p, damped = solve_shifted(
        rows.gram(), rows.gram_in_float64, 1 / tau, tf.concat(gradient, axis=0)
    )
    return tf.split(p, sizes, axis=0), damped


def dual(rows, d, tau, rest=None):
    """P = Aᵀ (AAᵀ + I/τ)⁻¹ (D - τ A rest) + τ rest"""
    rows = rows.matrix()
    if rest is not None:
        rest = [tau * part for part in rest]
        d -= rows.multiply(rest)

    def solve(right):
        return solve_shifted(
            rows.outer(), lambda: rows.cast(tf.float64).outer(), 1 / tau, right
        )

    if d.shape[-1] > rows.features:
        # Aᵀ (K⁻¹ D) = (K⁻¹ A)ᵀ D: the solve is against the side with fewer columns.
        a = rows.x
        if rows.bias:
            a = tf.concat([a, tf.ones_like(a[:, :1])], axis=1)
        a, damped = solve(a)
        p = [tf.matmul(a[:, : rows.x.shape[-1]], d, transpose_a=True)]
        if rows.bias:
            p.append(tf.matmul(a[:, -1:], d, transpose_a=True))
    else:
        y, damped = solve(d)
        p = rows.multiply_transposed(y)
    return add(p, rest), damped


def add(direction, rest):
    """Returns the sum of two directions, the second of which may be `None`."""
    if rest is None:
        return direction
    return [p + r for p, r in zip(direction, rest)]
