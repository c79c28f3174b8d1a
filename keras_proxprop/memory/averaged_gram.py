"""Solves with a Gram matrix that is averaged over batches and kept from step to step."""

import dataclasses
import typing

import tensorflow as tf

from keras_proxprop import replicas, tf32
from keras_proxprop.solvers import price
from keras_proxprop.solvers.exact import add
from keras_proxprop.solvers.solver import Solver

# Rows for every feature of a batch for which memory is chosen because of its size. With fewer,
# averages save less than they lose: with two an autoencoder took a tenth longer to a loss, and
# a third longer with memory for all layers that it makes cheaper (`docs/memory.md`).
_MANY = 3
# The names under which the variables of an `AveragedGram` are saved, in their order.
KEPT = ("average", "inverse", "weight", "rows", "refreshed", "batch")


class Averaged(Solver):
    """Solves `(R Ḡ + I/τ) P = AᵀD + rest` with the inverse that an `AveragedGram` keeps.

    Args:
        own: `Solver` that solves with the batch's own rows.
        refresh_every: steps from one refresh to the next.
        state: function that returns the `AveragedGram`, or `None`: then it only tells
            its price.
        damped: whether the inverse was damped in this step, a boolean tensor. Defaults to
            `None`: no refresh was asked for yet.
    """

    sees_all_replicas = True

    def __init__(self, own, refresh_every, state=None, damped=None):
        self._own = own
        self._refresh_every = refresh_every
        self.state = state
        self._damped = damped

    def after_refresh(self, damped):
        """Returns the same for a step whose refresh, if one was due, is made."""
        return Averaged(self._own, self._refresh_every, self.state, damped)

    def prices(self, rows, columns, count):
        products = min(_products(rows, columns, count).values())
        refresh = price.factorized_gram(rows, count) / self._refresh_every
        products += refresh + price.latency("memory")
        return {f"memory/{self._refresh_every}": products}

    def run(self, form, rows, d, tau, rest):
        return self.without_refresh().solve(rows, d, tau, rest)[0], self._damped

    def sent(self, form, rows, columns):
        # The inverse is sent, too: one replica makes it for all.
        return 2 * rows.triangles / self._refresh_every

    def pays(self, rows, columns, batch_size):
        """Returns whether this costs less than what `own` would do, at a batch size: at a
        typical one, or at one that has many rows for every feature."""
        counts = [price.typical_count(rows)]
        if batch_size * rows.per_item >= _MANY * rows.features:
            counts.append(batch_size * rows.per_item)

        def cheaper(count):
            own, others = (s.prices(rows, columns, count) for s in (self, self._own))
            return min(own.values()) < min(others.values())

        return any(map(cheaper, counts))

    def without_refresh(self):
        return Kept(self.state().inverse)


class Kept(Solver):
    """Multiplies by an inverse `M` that is at hand: `P = M (AᵀD + rest)`.

    `M` is multiplied from the side of the product that has fewer columns.

    Args:
        inverse: tensor or variable.
    """

    solves_with_rows = False
    sees_all_replicas = True

    def __init__(self, inverse):
        self._inverse = inverse

    def solve(self, rows, d, tau, rest=None):
        # The side to multiply from is a matter of this replica's own rows.
        with replicas.apart():
            return super().solve(rows, d, tau, rest)

    def prices(self, rows, columns, count):
        return _products(rows, columns, count)

    def run(self, form, rows, d, tau, rest):
        inverse = tf.convert_to_tensor(self._inverse)
        if form == "after":
            gradient = tf.concat(add(rows.multiply_transposed(d, tau.split), rest), axis=0)
            p = rows.split(rows.side_by_side(tf32.matmul(inverse, rows.by_group(gradient))))
        else:
            # The inverse amplifies what is lost of `A`, and nothing of `D`. That side is
            # split, since a copy of a direction is as large as the weights.
            a = rows.matrix()
            parts = a.split_columns(tf32.matmul(a.with_ones(), inverse))
            p = [tf.matmul(part, d, transpose_a=True) for part in parts]
            if rest is not None:
                p = add(p, rows.split(tf32.matmul(inverse, tf.concat(rest, axis=0))))
        return p, tf.constant(False)


def _products(rows, columns, count):
    """Returns `{side: multiply-adds}` of the product with the inverse."""
    after = 1.0 * rows.features**2 * columns + price.right_side(rows, columns, count)
    products = {"after": after}
    if rows.groups == 1:
        products["before"] = count * (rows.matrix_cost + rows.features**2)
    return products


@dataclasses.dataclass(frozen=True)
class AveragedGram:
    """The moving average of a problem's Gram matrix, and the inverse that is made of it.

    Attributes:
        average: variable, the sum of `AᵀA / R` over refreshes, each with its weight.
        inverse: variable, `(R Ḡ + I/τ)⁻¹` as of the last refresh.
        weight: variable, the sum of the weights in `average`.
        row_count: variable, the sum of `R` likewise. It is saved as "rows".
        refreshed: variable, the step of the last refresh.
        batch: variable, the trace of the last refresh's own `AᵀA / R`.
    """

    average: typing.Any
    inverse: typing.Any
    weight: typing.Any
    row_count: typing.Any
    refreshed: typing.Any
    batch: typing.Any

    @property
    def variables(self):
        return [getattr(self, field.name) for field in dataclasses.fields(self)]

    def sums(self):
        """Returns what `averaged` goes on from."""
        kept = (self.average, self.weight, self.row_count, self.batch)
        return [tf.convert_to_tensor(variable) for variable in kept]

    def assign(self, average, weight, row_count, batch, inverse, step):
        """Takes over what `averaged` returned, and the inverse that was made of it."""
        values = (average, inverse, weight, row_count, step, batch)
        for variable, value in zip(self.variables, values):
            variable.assign(value)
