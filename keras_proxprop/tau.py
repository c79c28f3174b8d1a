"""The proximal step size τ."""

import dataclasses
import math
import numbers
import typing

import keras
import tensorflow as tf

# 1/τ where τ is "auto", in units of the mean diagonal entry of `AᵀA`.
RELATIVE_SHIFT = 0.1
_TINY = 1e-12
Schedule = keras.optimizers.schedules.LearningRateSchedule


@dataclasses.dataclass(frozen=True)
class Tau:
    """The proximal step size, as every solver is given it.

    Attributes:
        value: "auto", a positive number, a scalar tensor or a variable.
    """

    value: typing.Any

    def of(self, rows, trace=None):
        """Returns the τ of one problem, a scalar tensor in the dtype of its rows.

        Args:
            rows: `Rows`.
            trace: trace of the Gram matrix that is solved with. Defaults to `None`: that of
                the rows.
        """
        value = self.value
        if isinstance(value, str):
            mean_curvature = (rows.trace() if trace is None else trace) / rows.features
            # All-zero inputs have no curvature, and no direction whatever τ is.
            return 1 / (RELATIVE_SHIFT * mean_curvature + _TINY)
        # A Python float never passes through float32 on the way.
        constant = isinstance(value, float)
        return tf.constant(value, rows.dtype) if constant else tf.cast(value, rows.dtype)


def check_tau(tau, schedules=True):
    """Returns `tau` if it is a positive number or tensor, "auto", or a schedule."""
    if isinstance(tau, str) and tau == "auto":
        return tau
    if schedules and isinstance(tau, Schedule):
        return tau
    if isinstance(tau, (tf.Tensor, tf.Variable, keras.Variable)):
        if tf.executing_eagerly():
            check_tau(tf.convert_to_tensor(tau).numpy().item())
        return tau
    if isinstance(tau, bool) or not isinstance(tau, numbers.Real):
        or_schedule = " or a `keras.optimizers.schedules.LearningRateSchedule`"
        raise TypeError(
            "Argument `tau` must be a positive float or 'auto'"
            f"{or_schedule if schedules else ''}. "
            f"Received: tau={tau!r} (of type {type(tau).__name__})"
        )
    if not (tau > 0 and math.isfinite(tau)):
        raise ValueError(
            "Argument `tau` is the proximal step size and must be positive and finite. "
            f"Received: tau={tau!r}"
        )
    return float(tau)
