"""The proximal step size τ."""

import dataclasses
import math
import numbers
import typing

import keras
import tensorflow as tf

from keras_proxprop import replicas
from keras_proxprop.rows.arrays import diagonals

# 1/τ where τ is "auto", in units of the mean diagonal entry of `AᵀA`.
RELATIVE_SHIFT = 0.1
_TINY = 1e-12
# Down to this τ, both 1/τ and its product with an entry of a Gram matrix fit in float32.
_SMALLEST = 1e-30
Schedule = keras.optimizers.schedules.LearningRateSchedule


@dataclasses.dataclass(frozen=True)
class Tau:
    """The proximal step size, as every solver is given it.

    Attributes:
        value: "auto", a positive number, a scalar tensor or a variable.
    """

    value: typing.Any

    def of(self, rows):
        """Returns the τ of one problem, a scalar tensor in the dtype of its `Rows`."""
        return 1 / self.shift(rows)

    def shift(self, rows, gram=None):
        """Returns 1/τ of one problem, a scalar tensor in the dtype of its `Rows`. "auto" is
        computed from the rows of all replicas.

        Args:
            rows: `Rows`.
            gram: `AᵀA` or `AAᵀ` of all replicas, which have the same trace. Defaults to
                `None`: it is not at hand.
        """
        if not isinstance(self.value, str):
            trace = 0.0
        elif gram is None or rows.estimates_trace:
            trace = replicas.total(rows.trace())
        else:
            trace = tf.reduce_sum(diagonals(gram)) / rows.groups
        return self.shift_at(trace / rows.features, rows.dtype)

    def shift_at(self, mean_curvature, dtype):
        """Returns 1/τ for a Gram matrix, a scalar tensor.

        Args:
            mean_curvature: mean of the matrix's diagonal; used only where τ is "auto".
            dtype: dtype of the result.
        """
        value = self.value
        if isinstance(value, str):
            # Inputs of zeros have no curvature. Their direction is zero for every τ.
            return RELATIVE_SHIFT * mean_curvature + _TINY
        # A Python float is not rounded to float32 first.
        if isinstance(value, float):
            return tf.constant(1 / value, dtype)
        # A schedule may fall below the smallest τ.
        return 1 / tf.maximum(tf.cast(value, dtype), tf.constant(_SMALLEST, dtype))

    @property
    def split(self):
        """Which operands of `AᵀD` are not to be rounded, as in `tf32.product`.

        Rounding changes `D` by as much as the product from which `D` came. Where τ is "auto",
        directions change by less than a thousandth, as `tests/test_tf32.py` shows for twelve
        layers; where τ was 1 or 100, they changed by up to 1.4e-3.
        """
        return 1 if isinstance(self.value, str) else 2

    @property
    def tensor(self):
        """The value, with a variable read as a tensor."""
        is_plain = isinstance(self.value, (str, float))
        return self.value if is_plain else tf.convert_to_tensor(self.value)

    def of_part(self, parts):
        """Returns the τ for a part of a batch that stands for `parts` parts like itself.

        `n` such parts have the Gram matrix `n AᵀA`, and `(n AᵀA + I/τ)⁻¹` is
        `(AᵀA + I/(n τ))⁻¹ / n`. "auto" is computed from the part's own trace already.
        """
        return self if parts == 1 or isinstance(self.value, str) else Tau(self.value * parts)


def check_tau(tau, schedules=True):
    """Returns `tau` if it is a positive number or tensor, "auto", or a schedule."""
    if isinstance(tau, str) and tau == "auto":
        return tau
    if schedules and isinstance(tau, Schedule):
        return tau
    is_tensor = isinstance(tau, (tf.Tensor, tf.Variable, keras.Variable))
    if is_tensor and len(tau.shape) == 0:
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
    if not (tau >= _SMALLEST and math.isfinite(tau)):
        raise ValueError(
            "Argument `tau` is the proximal step size and must be positive and finite, and "
            f"at least {_SMALLEST}: 1/tau must be a number in float32, too. For shorter "
            f"steps make the learning rate smaller. Received: tau={tau!r}"
        )
    return float(tau)


def tau_variable(optimizer, tau):
    """Returns a variable of the optimizer that holds τ, so that τ can be changed."""
    # float64: a tau of 0.1 stays 0.1 for a model in float64. (Keras's Constant would
    # round it to float32 first.)
    return optimizer.add_variable(
        shape=(),
        initializer=lambda shape, dtype: tf.constant(float(tau), dtype, shape),
        dtype="float64",
        aggregation="only_first_replica",
        name="tau",
    )


def tau_config(tau):
    """Returns τ ("auto", the variable of a number, or a schedule) as plain data."""
    if isinstance(tau, Schedule):
        return keras.saving.serialize_keras_object(tau)
    return tau if isinstance(tau, str) else float(tau.numpy())
