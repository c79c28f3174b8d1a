"""What a solver is."""

import functools

from keras_proxprop.has_config import HasConfig
from keras_proxprop.solvers import price


class Solver(HasConfig):
    """Solves `(AᵀA + I/τ) P = AᵀD + rest` for the direction `P`.

    A solver has one or several forms, and runs the cheapest one. `prices` says what each form
    costs, and `run` runs a form. Reports ask `prices`, too, to know which form is taken.
    A solver knows rows, products and matrices, but never the layer that they come from.
    """

    # Whether it solves with a factorization.
    factorizes = False
    # Whether it solves with a matrix of the rows of all replicas.
    sees_all_replicas = False
    # Whether it solves with a matrix of the batch's own rows, and not with a kept one.
    solves_with_rows = True

    def solve(self, rows, d, tau, rest=None):
        """Returns the direction `P`, a list as in `keras_proxprop.rows`, and a boolean tensor:
        whether the matrix was damped so that it could be inverted.

        Args:
            rows: `Rows`, the matrix `A`.
            d: `∂L/∂z`, `[count, columns]`, in `rows.dtype`.
            tau: `Tau`, the proximal step size.
            rest: direction-shaped part of the gradient that does not pass through `A`
                (regularizers, tied weights), or `None`.
        """
        if rows.closed_form:
            return rows.solve(d, tau.of(rows), rest)
        prices = functools.partial(self.prices, rows, d.shape[-1])
        return price.run_cheapest(
            rows, prices, lambda form: self.run(form, rows, d, tau, rest)
        )

    def prices(self, rows, columns, count):
        """Returns `{form: price}` of the forms that this solver has for such rows: what they
        cost beyond the layer's backpropagation.

        Args:
            rows: `Rows` without a closed form.
            columns: number of output columns.
            count: number of rows, a number or a float tensor.
        """
        raise NotImplementedError

    def run(self, form, rows, d, tau, rest):
        """Does what `solve` does, by one of the forms."""
        raise NotImplementedError

    def choice(self, rows, columns, batch_known=True):
        """Returns the form that `solve` takes, and its price.

        Args:
            rows: `Rows`. Where their number is unknown, the price is that of a typical number.
            columns: number of output columns.
            batch_known: whether the batch size is known where the step is traced.
        """
        if rows.closed_form:
            return "closed", price.closed(rows, columns)
        prices = functools.partial(self.prices, rows, columns)
        form, cost = price.cheapest(rows, prices, batch_known)
        return self.describe(form, rows, columns, cost)

    def forms(self, rows, columns):
        """Returns the names of the forms of which `solve` takes one, for rows of one replica
        without a closed form."""
        prices = functools.partial(self.prices, rows, columns)
        return price.possible(rows, prices, rows.count)

    def traffic(self, rows, columns, batch_known=True):
        """Returns how many numbers a replica sends in `solve`, the mean over steps.

        Args:
            rows, columns, batch_known: as in `choice`, with the rows of all replicas.
        """
        if rows.closed_form:
            return rows.closed_traffic
        prices = functools.partial(self.prices, rows, columns)
        form, _ = price.cheapest(rows, prices, batch_known)
        return self.sent(form, rows, columns)

    def sent(self, form, rows, columns):
        """Returns what `traffic` returns, for one of the forms."""
        raise NotImplementedError

    def describe(self, form, rows, columns, price):
        """Returns a form's name and price as reports show them."""
        return form, price

    def without_refresh(self):
        """Returns a solver that does the same, but changes nothing that memory keeps."""
        return self
