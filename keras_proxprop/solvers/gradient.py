"""The explicit step of a layer that was recorded but must not step implicitly."""

import tensorflow as tf

from keras_proxprop.solvers.exact import add
from keras_proxprop.solvers.solver import Solver


class Gradient(Solver):
    """Returns the plain gradient `AᵀD + rest`."""

    # The gradients of replicas add up to that of all rows.
    sees_all_replicas = True

    def solve(self, rows, d, tau, rest=None):
        # No inverse amplifies what is rounded.
        return add(rows.multiply_transposed(d, split=0), rest), tf.constant(False)
