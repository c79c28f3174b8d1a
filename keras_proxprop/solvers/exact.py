"""The exact step by a Cholesky factorization, of the smaller of two matrices."""

import keras
import tensorflow as tf

from keras_proxprop import replicas, tf32, xla
from keras_proxprop.arguments import check_choice
from keras_proxprop.rows.matrix import laid_out
from keras_proxprop.solvers import price
from keras_proxprop.solvers.factorization import checked, solution, square
from keras_proxprop.solvers.solver import Solver


@keras.saving.register_keras_serializable(package="keras_proxprop")
class Exact(Solver):
    """Solves the proximal step exactly.

    With `R` rows and `F` features there are two equal forms (push-through identity):

        primal:  P = (AᵀA + I/τ)⁻¹ (AᵀD)      factorizes an F × F matrix
        dual:    P = Aᵀ (AAᵀ + I/τ)⁻¹ D       factorizes an R × R matrix

    The last product of the dual form takes the place of the weight gradient, which is
    then not computed: where a batch has fewer rows than the layer has features, the
    exact step costs little more than backpropagation.

    Args:
        form: "primal", "dual" or "auto" (default): the form that is cheaper for the
            layer's numbers of rows and features, at every batch size.

    Raises:
        ValueError: if `form` is none of these.

    Example:

    >>> optimizer = keras_proxprop.ProxProp(solver=keras_proxprop.solvers.Exact())

    Source: Frerix et al., *Proximal Backpropagation*, ICLR 2018, equation (12).
    """

    factorizes = True

    def __init__(self, form: str = "auto") -> None:
        self.form = check_choice("form", form, ("auto", "primal", "dual"))

    def prices(self, rows, columns, count):
        prices = price.primal_and_dual(rows, columns, count)
        # Problems with several groups of columns have no dual form.
        return {self.form: prices[self.form]} if self.form in prices else prices

    def run(self, form, rows, d, tau, rest):
        return _FORMS[form](rows, d, tau, rest)

    def sent(self, form, rows, columns):
        return rows.written_out if form == "dual" else rows.triangles

    def get_config(self):
        return {"form": self.form}


def primal(rows, d, tau, rest=None):
    """P = (AᵀA + I/τ)⁻¹ (AᵀD + rest)"""
    right = add(rows.multiply_transposed(d, tau.split), rest)
    (gram,) = replicas.total_symmetric([rows.gram()])
    form = _Primal(rows, d, rest, gram, tau.shift(rows, gram))
    return solution(form, lambda inverse: form.solve(inverse, right))


def dual(rows, d, tau, rest=None):
    """P = Aᵀ (AAᵀ + I/τ)⁻¹ (D - τ A rest) + τ rest"""
    matrix, d = rows.matrix().of_all_replicas(), replicas.in_place(d)
    with replicas.apart():
        gram = matrix.outer()
        form = _Dual(matrix, d, rest, gram, tau.shift(matrix, gram))
        return solution(form, form.solve)


_FORMS = {"primal": primal, "dual": dual}


class _Form:
    """What `factorization.solution` asks of a form of the exact step.

    Args:
        rows, d, rest: as in `Solver.solve`.
        gram: `AᵀA` or `AAᵀ`.
        shift: 1/τ, a scalar tensor.
    """

    def __init__(self, rows, d, rest, gram, shift):
        self._rows, self._d, self._rest = rows, d, rest
        self.gram, self.shift = gram, shift

    # Nothing is added that cancels.
    keeps = None

    def otherwise(self, factor, p):
        rows = self._rows
        if rows.layout is None or replicas.in_sync() > 1:
            return xla.rarely(lambda: checked(self, factor, p))
        tensors = rows.x, self._d, self.gram, self.shift, factor, *p, *(self._rest or [])
        tensors = map(tf.convert_to_tensor, tensors)
        found, damped = _checked(type(self).__name__, rows.layout, *tensors)
        for part, own in zip(found, p):
            part.set_shape(own.shape)
        return found, damped


class _Primal(_Form):
    # Single entries are more exact, but rounding to one side adds up over all entries.
    rounding = 1e-5

    def energy(self, x):
        rows = self._rows
        products = rows.multiply(rows.split(rows.side_by_side(x)))
        return replicas.total(tf.reduce_sum(products**2, axis=0))

    def in_float64(self):
        # Rounding moves a part of AᵀD out of the range of Aᵀ, which is then multiplied by τ.
        gram, parts = self._rows.equations_in_float64(self._d)
        (gram,) = replicas.total_symmetric([gram])
        parts = add(parts, self._rest and [tf.cast(part, tf.float64) for part in self._rest])

        def direction(inverse):
            return [tf.cast(part, self._d.dtype) for part in self.solve(inverse, parts)]

        return gram, direction

    @property
    def refined(self):
        # Replicas do not see the directions of others.
        return self._refined if replicas.in_sync() == 1 else None

    def _refined(self, inverse, p):
        rows = self._rows
        residual = self._d - rows.multiply(p)
        parts = add(rows.multiply_transposed(residual), self._rest)
        parts = [part - self.shift * own for part, own in zip(parts, p)]
        return add(self.solve(inverse, parts), p)

    def solve(self, inverse, parts):
        """Returns `(AᵀA + I/τ)⁻¹ right`, of the right side's `parts`."""
        rows = self._rows
        right = rows.by_group(tf.concat(parts, axis=0))
        return rows.split(rows.side_by_side(inverse(right)))


class _Dual(_Form):
    # Sums over features are short, and lose a millionth at most.
    rounding = 1e-6
    # A small residual does not show the errors of K⁻¹ D that cancel in Aᵀ (K⁻¹ D).
    refined = None
    # How many times as long as the direction τ rest may be, nearly all of which cancels then.
    _longest = 500.0

    @property
    def keeps(self):
        return self._keeps if self._rest is not None else None

    def _keeps(self, p):
        return square(self._rest) <= (self._longest * self.shift) ** 2 * square(p)

    def energy(self, x):
        parts = self._rows.multiply_transposed(x)
        return tf.add_n([tf.reduce_sum(part**2, axis=0) for part in parts])

    def solve(self, inverse):
        return self._solve(inverse, self._rows, self._d, self.shift, self._rest)

    def in_float64(self):
        rows64, shift64 = self._rows.cast(tf.float64), tf.cast(self.shift, tf.float64)

        def direction(inverse):
            # The last product is in float64, too: in it the rounding errors of K⁻¹ D cancel.
            d64, *rest64 = [tf.cast(g, tf.float64) for g in (self._d, *(self._rest or []))]
            parts = self._solve(inverse, rows64, d64, shift64, rest64 or None)
            return [tf.cast(part, self._d.dtype) for part in parts]

        return rows64.outer(), direction

    @staticmethod
    def _solve(inverse, rows, d, shift, rest):
        if rest is not None:
            rest = [part / shift for part in rest]
            d -= rows.multiply(rest)
        sizes = d.shape[-1], rows.features
        if None in sizes or sizes[0] <= sizes[1]:
            return add(rows.multiply_transposed(inverse(d)), rest)
        # Aᵀ (K⁻¹ D) = (K⁻¹ A)ᵀ D: the solve takes the side with fewer columns. That side is
        # split, and not the product, since a copy of a direction is as large as the weights.
        parts = rows.split_columns(inverse(rows.with_ones()))
        return add([tf32.matmul(part, d, transpose_a=True) for part in parts], rest)


@xla.traced_once
def _checked(form, layout, x, d, gram, shift, factor, *directions):
    """Returns what `checked` returns, of rows that are written out: one trace for many layers.

    Args:
        form: name of the class.
        layout: as in `laid_out`.
        x, d, gram, shift, factor: of a form and its rows.
        directions: `p` and, where there is one, `rest`.
    """
    weights = 1 + layout if isinstance(layout, bool) else len(layout)
    p, rest = directions[:weights], directions[weights:] or None
    kind = {kind.__name__: kind for kind in (_Primal, _Dual)}[form]
    return checked(kind(laid_out(x, layout), d, rest, gram, shift), factor, list(p))


def add(direction, rest):
    """Returns the sum of two directions, the second of which may be `None`."""
    if rest is None:
        return direction
    return [p + r for p, r in zip(direction, rest)]
