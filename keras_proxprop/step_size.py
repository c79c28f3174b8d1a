"""The proximal step size τ."""

import math
import numbers

import keras
import tensorflow as tf

_OR_SCHEDULE = " or a `keras.optimizers.schedules.LearningRateSchedule`"


def check_tau(tau, schedules=True):
    """Returns `tau` if it is a positive number, a tensor or (unless told) a schedule."""
    if schedules and isinstance(tau, keras.optimizers.schedules.LearningRateSchedule):
        return tau
    if isinstance(tau, (tf.Tensor, tf.Variable, keras.Variable)):
        if tf.executing_eagerly():
            check_tau(tf.convert_to_tensor(tau).numpy().item())
        return tau
    if isinstance(tau, bool) or not isinstance(tau, numbers.Real):
        raise TypeError(
            f"Argument `tau` must be a positive float{_OR_SCHEDULE if schedules else ''}. "
            f"Received: tau={tau!r} (of type {type(tau).__name__})"
        )
    if not (tau > 0 and math.isfinite(tau)):
        raise ValueError(
            "Argument `tau` is the proximal step size and must be positive and finite. "
            f"Received: tau={tau!r}"
        )
    return float(tau)


def as_tensor(tau, dtype):
    """Returns τ in `dtype`; a Python float never passes through float32 on the way."""
    return tf.constant(tau, dtype) if isinstance(tau, float) else tf.cast(tau, dtype)
