"""Adam whose steps are longer where a direction is made from more rows."""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from keras_proxprop.keras_seams.names import known_by_name
from keras_proxprop.optimizers.hyperparameters import check_numbers
from keras_proxprop.optimizers.problem_size import KnowsSizes

LearningRate: TypeAlias = (
    float | keras.optimizers.schedules.LearningRateSchedule | Callable[[], float]
)
# The number of rows for which a step is Adam's, and how much longer or shorter others are.
_ROWS = 64
_EXPONENT = 1 / 3
_SHORTEST, _LONGEST = 0.5, 8.0
# Keras's default for Adam. Smaller numbers are 0 in float16, and 0 / 0 is not a number.
_EPSILON_OF_FLOAT16 = 1e-7


@known_by_name
@keras.saving.register_keras_serializable(package="keras_proxprop")
class RowAdam(KnowsSizes, keras.optimizers.Adam):
    """Adam for implicit directions.

    `RowAdam` differs from `keras.optimizers.Adam` in two ways:

    - An implicit direction is estimated from the rows of the layer's least-squares problem,
      and more rows make it surer. A `Dense` layer has one row per item of the batch, and a
      convolution has one per item and output position. The step of a weight with `R` rows is
      `learning_rate * clip((R / 64) ** (1/3), 0.5, 8)` times Adam's quotient. The step of a
      weight without an implicit direction is `learning_rate` times the quotient, as in Adam.
    - `epsilon` is 1e-12. Directions are divided by the curvature of all rows. Directions of a
      convolution can be as small as Adam's usual epsilon of 1e-7, which would shorten their
      steps. For weights in float16 `epsilon` is at least 1e-7, since smaller numbers are 0.

    With plain gradients `RowAdam` is Adam.

    Args:
        learning_rate: a float, a `keras.optimizers.schedules.LearningRateSchedule` or a
            callable, for 64 rows. Defaults to `0.001`.
        beta_1: decay rate of the mean of directions. Defaults to `0.9`.
        beta_2: decay rate of the mean of squared directions. Defaults to `0.999`.
        epsilon: number that is added to the root of the mean of squares. Defaults to `1e-12`.
        amsgrad: whether to divide by the root of the largest mean of squares so far. Defaults
            to `False`.
        name: name of the optimizer. Defaults to `"row_adam"`.
        **kwargs: arguments of every Keras optimizer: `weight_decay`, `clipnorm`, ...

    Raises:
        ValueError: if a number is out of its range.
        TypeError: if something else is given where a number is needed.

    Example:

    >>> inner = keras_proxprop.RowAdam(learning_rate=3e-4, weight_decay=0.01)
    >>> model.compile(optimizer=keras_proxprop.ProxProp(inner), loss="mse")

    Source: the exponent and the limits are measured, see `examples/benchmarks/RESULTS.md`.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-12,
        amsgrad: bool = False,
        name: str = "row_adam",
        **kwargs: Any,
    ) -> None:
        given = {"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon}
        check_numbers({**kwargs, **given, "learning_rate": learning_rate})
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, name=name, **kwargs)

    def factor(self, size, variable):
        known = size.implicit and size.row_count is not None
        return row_factor(size.row_count) if known else 1.0

    def update_step(self, gradient, variable, learning_rate):
        factor = self.factor(self.size_of(variable), variable)
        if tf.is_tensor(factor) or factor != 1.0:
            learning_rate = tf.cast(learning_rate, variable.dtype)
            learning_rate *= tf.cast(factor, variable.dtype)
        epsilon = self.epsilon
        self.epsilon = epsilon_for(epsilon, variable.dtype)
        try:
            super().update_step(gradient, variable, learning_rate)
        finally:
            self.epsilon = epsilon


def epsilon_for(epsilon, dtype):
    """Returns the epsilon for weights of a dtype."""
    return max(epsilon, _EPSILON_OF_FLOAT16) if tf.as_dtype(dtype) == tf.float16 else epsilon


def row_factor(count):
    """Returns the factor from Adam's step to a step from this many rows."""
    if isinstance(count, int):
        return min(max((count / _ROWS) ** _EXPONENT, _SHORTEST), _LONGEST)
    factor = (tf.cast(count, "float32") / _ROWS) ** _EXPONENT
    return tf.clip_by_value(factor, _SHORTEST, _LONGEST)
