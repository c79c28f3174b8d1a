"""Adam whose steps are longer where a direction is made from more rows."""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from keras_proxprop.keras_seams.names import known_by_name
from keras_proxprop.optimizers.problem_size import KnowsSizes

LearningRate: TypeAlias = (
    float | keras.optimizers.schedules.LearningRateSchedule | Callable[[], float]
)
# The number of rows for which a step is Adam's, and how much longer or shorter others are.
_ROWS = 64
_EXPONENT = 1 / 3
_SHORTEST, _LONGEST = 0.5, 8.0
# Adam's own: about the smallest number of float16, where less is 0 and 0 / 0 not a number.
_EPSILON_OF_FLOAT16 = 1e-7


@known_by_name
@keras.saving.register_keras_serializable(package="keras_proxprop")
class RowAdam(KnowsSizes, keras.optimizers.Adam):
    """Adam for implicit directions.

    Differs from `keras.optimizers.Adam` in two ways:

    - An implicit direction is estimated from the rows of the layer's least-squares problem,
      and is surer the more they are: one per item of the batch for a `Dense` layer, one per
      item and output position for a convolution. The step of a weight with `R` rows is
      `learning_rate * clip((R / 64) ** (1/3), 0.5, 8)` times Adam's quotient; that of a weight
      without an implicit direction is `learning_rate` times it, as ever.
    - `epsilon` is 1e-12. Directions are divided by the curvature of all rows: those of a
      convolution are about as small as Adam's usual 1e-7, which would slow them down. For
      weights in float16 it is at least 1e-7: less is 0 there.

    With plain gradients it is Adam.

    Args:
        learning_rate: a float, a `keras.optimizers.schedules.LearningRateSchedule` or a
            callable, for 64 rows. Defaults to `0.001`.
        beta_1: decay rate of the mean of directions. Defaults to `0.9`.
        beta_2: decay rate of the mean of their squares. Defaults to `0.999`.
        epsilon: what is added to the root of that mean. Defaults to `1e-12`.
        amsgrad: whether to divide by the largest mean so far. Defaults to `False`.
        name: name of the optimizer. Defaults to `"row_adam"`.
        **kwargs: arguments of every Keras optimizer: `weight_decay`, `clipnorm`, ...

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
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, name=name, **kwargs)

    def factor(self, size, variable):
        known = size.implicit and size.rows is not None
        return row_factor(size.rows) if known else 1.0

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


def row_factor(rows):
    """Returns how much longer a step from so many rows is than Adam's."""
    if isinstance(rows, int):
        return min(max((rows / _ROWS) ** _EXPONENT, _SHORTEST), _LONGEST)
    factor = (tf.cast(rows, "float32") / _ROWS) ** _EXPONENT
    return tf.clip_by_value(factor, _SHORTEST, _LONGEST)
