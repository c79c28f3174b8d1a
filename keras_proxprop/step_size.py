"""The proximal step size τ."""

import math
import numbers

import keras
import tensorflow as tf


def check_tau(tau):
    """Returns `tau` if it is a positive number, a tensor or a schedule; else raises."""
    if isinstance(tau, keras.optimizers.schedules.LearningRateSchedule):
        return tau
    if isinstance(tau, (tf.Tensor, tf.Variable, keras.Variable)):
        return tau
    if isinstance(tau, bool) or not isinstance(tau, numbers.Real):
        raise TypeError(
            "Argument `tau` must be a positive float or a "
            f"`keras.optimizers.schedules.LearningRateSchedule`. Received: tau={tau!r} "
            f"(of type {type(tau).__name__})"
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
