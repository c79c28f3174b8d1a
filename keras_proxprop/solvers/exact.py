"""The exact step by a Cholesky factorization, of the smaller of two matrices."""

import keras
import tensorflow as tf

from keras_proxprop.solvers import cost
from keras_proxprop.solvers.factorization import with_inverse
from keras_proxprop.solvers.solver import Solver

# Columns that are solved at once in float64.
_COLUMNS = 512


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

    exact = True

    def __init__(self, form="auto"):
        if form not in ("auto", "primal", "dual"):
            raise ValueError(
                f"Argument `form` must be 'auto', 'primal' or 'dual'. Received: form={form!r}"
            )
        self.form = form

    def solve(self, rows, d, tau, rest=None):
        if rows.closed_form:
            return rows.solve(d, tau, rest)
        if self.form == "primal" or rows.groups > 1:
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

    def prices(self, rows, columns, count):
        costs = cost.exact(rows, columns, count)
        return {self.form: costs[self.form]} if self.form in costs else costs

    def choose(self, rows, columns):
        if rows.closed_form:
            return cost.closed_form(rows, columns)
        prices = self.prices(rows, columns, rows.count)
        form = min(prices, key=prices.get)
        return form, prices[form]

    def get_config(self):
        return {"form": self.form}


def primal(rows, d, tau, rest=None):
    """P = (AᵀA + I/τ)⁻¹ (AᵀD + rest)"""
    gradient = add(rows.multiply_transposed(d), rest)

    def direction(inverse, parts):
        right = rows.by_group(tf.concat(parts, axis=0))
        return rows.split(rows.side_by_side(inverse(right)))

    def in_float64(inverse):
        # What rounding leaves of AᵀD outside of the range of Aᵀ is multiplied by τ.
        rest64 = None if rest is None else [tf.cast(part, tf.float64) for part in rest]
        parts = add(rows.multiply_transposed_in_float64(d), rest64)
        return [tf.cast(part, d.dtype) for part in direction(inverse, parts)]

    def energy(x):
        return tf.reduce_sum(rows.multiply(rows.split(rows.side_by_side(x))) ** 2, axis=0)

    return with_inverse(
        rows.gram(),
        rows.gram_in_float64,
        energy,
        1 / tau,
        lambda inverse: direction(inverse, gradient),
        in_float64,
        gradient,
    )


def dual(rows, d, tau, rest=None):
    """P = Aᵀ (AAᵀ + I/τ)⁻¹ (D - τ A rest) + τ rest"""
    rows = rows.matrix()

    def direction(inverse, rows, d, tau, rest):
        if rest is not None:
            rest = [tau * part for part in rest]
            d -= rows.multiply(rest)
        if d.shape[-1] <= rows.features:
            return add(rows.multiply_transposed(inverse(d)), rest)
        # Aᵀ (K⁻¹ D) = (K⁻¹ A)ᵀ D: the solve is against the side with fewer columns.
        p = tf.matmul(inverse(rows.with_ones()), d, transpose_a=True)
        return add(rows.split(p), rest)

    def in_float64(inverse):
        # The last product too: in it cancels what rounding adds to K⁻¹ D. A few columns at a
        # time: XLA sets memory aside for this branch whether or not it is taken.
        pieces = []
        rows64, tau64 = rows.cast(tf.float64), tf.cast(tau, tf.float64)
        for start in range(0, d.shape[-1], _COLUMNS):
            columns = (..., slice(start, start + _COLUMNS))
            rest64 = rest and [tf.cast(part[columns], tf.float64) for part in rest]
            p = direction(inverse, rows64, tf.cast(d[columns], tf.float64), tau64, rest64)
            pieces.append([tf.cast(part, d.dtype) for part in p])
        return [tf.concat(parts, axis=-1) for parts in zip(*pieces)]

    def energy(x):
        return tf.add_n([tf.reduce_sum(p**2) for p in rows.multiply_transposed(x)])

    return with_inverse(
        rows.outer(),
        rows.outer_in_float64,
        energy,
        1 / tau,
        lambda inverse: direction(inverse, rows, d, tau, rest),
        in_float64,
        [d],
    )


def add(direction, rest):
    """Returns the sum of two directions, the second of which may be `None`."""
    if rest is None:
        return direction
    return [p + r for p, r in zip(direction, rest)]
