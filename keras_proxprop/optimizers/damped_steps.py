"""Counts the training steps that were damped, and warns of them."""

import tensorflow as tf

from keras_proxprop.tape import warn_damped


class DampedSteps:
    """Counts damped steps in a variable.

    Args:
        variable: int64 scalar variable of the optimizer.
    """

    def __init__(self, variable):
        self._count = variable
        self._reported = 0

    def count(self, damped):
        """Counts a step if `damped`, a boolean tensor."""
        self._count.assign_add(tf.cast(damped, "int64"))

    def report(self):
        """Warns of the steps that were damped since the last report."""
        number = int(self._count.numpy())
        if number > self._reported:
            warn_damped(f"{number - self._reported} training steps were", stacklevel=4)
        self._reported = number
