"""What a solver is."""

from keras_proxprop.has_config import Config


class Solver(Config):
    """Solves `(AᵀA + I/τ) P = AᵀD + rest` for the direction `P`.

    A solver knows rows, products and matrices, never the layer that they come from.
    """

    def solve(self, rows, d, tau, rest=None):
        """Returns the direction `P`, a list as in `keras_proxprop.rows.base`, and whether
        the matrix had to be damped to be inverted, a boolean tensor.

        Args:
            rows: `Rows`, the matrix `A`.
            d: `∂L/∂z`, `[count, columns]`, in `rows.dtype`.
            tau: proximal step size, a scalar tensor in `rows.dtype`.
            rest: direction-shaped part of the gradient that does not pass through `A`
                (regularizers, tied weights), or `None`.
        """
        raise NotImplementedError

    # Whether a factorization is what it solves with.
    exact = False
    # Whether it is given a function that returns τ, to be called with a Gram matrix at hand.
    takes_tau_when_due = False

    def prices(self, rows, columns, count):
        """Returns `{form: cost}` of the forms that `solve` may choose between."""
        raise NotImplementedError

    def choose(self, rows, columns):
        """Returns `(form, cost)`: what `solve` does with rows of known count, and its price
        in multiply-adds beyond the layer's backpropagation."""
        raise NotImplementedError

    def without_refresh(self):
        """Returns a solver that does the same without a change of what is kept of the past."""
        return self
