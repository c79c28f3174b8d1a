"""The proximal step size τ."""

import math
import numbers

import keras
import tensorflow as tf

# 1/τ where τ is "auto", in units of the mean diagonal entry of `AᵀA`.
RELATIVE_SHIFT = 0.1
_TINY = 1e-12
_OR_SCHEDULE = " or a `keras.optimizers.schedules.LearningRateSchedule`"


def check_tau(tau, schedules=True):
    """Returns `tau` if it is a positive number or tensor, "auto", or a schedule."""
    if isinstance(tau, str) and tau == "auto":
        return tau
    if schedules and isinstance(tau, keras.optimizers.schedules.LearningRateSchedule):
        return tau
    if isinstance(tau, (tf.Tensor, tf.Variable, keras.Variable)):
        if tf.executing_eagerly():
            check_tau(tf.convert_to_tensor(tau).numpy().item())
        return tau
    if isinstance(tau, bool) or not isinstance(tau, numbers.Real):
        raise TypeError(
            "Argument `tau` must be a positive float or 'auto'"
            f"{_OR_SCHEDULE if schedules else ''}. "
            f"Received: tau={tau!r} (of type {type(tau).__name__})"
        )
    if not (tau > 0 and math.isfinite(tau)):
        raise ValueError(
            "Argument `tau` is the proximal step size and must be positive and finite. "
            f"Received: tau={tau!r}"
        )
    return float(tau)


def tau_of(tau, rows, trace=None):
    """Returns the τ of one problem, a scalar tensor in the dtype of its rows.

    Args:
        tau: a number, a tensor, or "auto".
        rows: `Rows`.
        trace: that of the Gram matrix, where it is not to be that of the rows.
    """
    if isinstance(tau, str):
        mean_curvature = (rows.trace() if trace is None else trace) / rows.features
        # All-zero inputs have no curvature, and no direction whatever τ is.
        return 1 / (RELATIVE_SHIFT * mean_curvature + _TINY)
    # A Python float never passes through float32 on the way.
    return tf.constant(tau, rows.dtype) if isinstance(tau, float) else tf.cast(tau, rows.dtype)
