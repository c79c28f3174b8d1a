"""The default: exact where that is affordable, conjugate gradients where it is not."""

import keras

from keras_proxprop.solvers import price
from keras_proxprop.solvers.conjugate_gradient import ConjugateGradient
from keras_proxprop.solvers.exact import Exact

# CG is taken where both factorizations cost more than this many times the layer's own
# backpropagation.
MULTIPLE = 30
ITERATIONS = 5


@keras.saving.register_keras_serializable(package="keras_proxprop")
class Auto(Exact):
    """Chooses primal, dual or CG for every layer by the count in `price`."""

    def __init__(self):
        super().__init__()
        self._cg = ConjugateGradient(ITERATIONS)

    def prices(self, rows, columns, count):
        """Returns `{form: price}`. CG has the price above which CG is preferred."""
        limit = MULTIPLE * price.backpropagation(rows, columns, count)
        return {**super().prices(rows, columns, count), "cg": limit}

    def run(self, form, rows, d, tau, rest):
        if form == "cg":
            return self._cg.solve(rows, d, tau, rest)
        return super().run(form, rows, d, tau, rest)

    def sent(self, form, rows, columns):
        if form == "cg":
            return self._cg.traffic(rows, columns)
        return super().sent(form, rows, columns)

    def describe(self, form, rows, columns, price):
        return self._cg.choice(rows, columns) if form == "cg" else (form, price)

    def get_config(self):
        return {}
