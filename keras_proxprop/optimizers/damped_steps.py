"""Counts the training steps that were damped, and warns of them."""

import warnings

import tensorflow as tf


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

    def begin(self):
        """Begins to count for the next report: what was loaded is no news."""
        self._reported = int(self._count.numpy())

    def report(self):
        """Warns of the steps that were damped since the last report, or since `begin`."""
        number = int(self._count.numpy())
        if number > self._reported:
            warn_damped(f"{number - self._reported} training steps were", stacklevel=4)
        self._reported = number


def warn_damped(what, stacklevel=3):
    """Warns that steps were damped; `what` is the sentence's beginning."""
    warnings.warn(
        f"{what} damped: the inputs of some layer are so alike, or so different in scale, "
        "that their Gram matrix cannot be inverted with this tau in float64. Scale the "
        "inputs, or make tau smaller.",
        stacklevel=stacklevel,
    )
