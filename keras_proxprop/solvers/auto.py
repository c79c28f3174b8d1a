"""The default: exact where that is affordable, conjugate gradients where it is not."""

import keras

from keras_proxprop.solvers import price
from keras_proxprop.solvers.conjugate_gradient import ConjugateGradient
from keras_proxprop.solvers.exact import dual, primal
from keras_proxprop.solvers.solver import Solver

# CG is taken where both factorizations cost more than so many times the layer's own
# backpropagation.
MULTIPLE = 30
ITERATIONS = 5


@keras.saving.register_keras_serializable(package="keras_proxprop")
class Auto(Solver):
    """Chooses primal, dual or CG for every layer by the count in `cost`."""

    exact = True

    def solve(self, rows, d, tau, rest=None):
        if rows.closed_form:
            return rows.solve(d, tau, rest)
        return price.cheapest(
            rows,
            lambda count: self.prices(rows, d.shape[-1], count),
            {
                "primal": lambda: primal(rows, d, tau, rest),
                "dual": lambda: dual(rows, d, tau, rest),
                "cg": lambda: ConjugateGradient(ITERATIONS).solve(rows, d, tau, rest),
            },
        )

    def prices(self, rows, columns, count):
        """Returns `{form: cost}`; CG's is the price from which on it is preferred."""
        limit = MULTIPLE * price.backpropagation(rows, columns, count)
        return {**price.exact(rows, columns, count), "cg": limit}

    def choose(self, rows, columns):
        if rows.closed_form:
            return price.closed_form(rows, columns)
        prices = self.prices(rows, columns, rows.count)
        form = min(prices, key=prices.get)
        if form == "cg":
            return ConjugateGradient(ITERATIONS).choose(rows, columns)
        return form, prices[form]
