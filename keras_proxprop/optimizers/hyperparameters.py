"""Checks of the numbers that optimizers of Keras take, which Keras leaves unchecked."""

import math
import numbers

import keras
import tensorflow as tf

from keras_proxprop.arguments import check_whole

# What each may be at least, below which it must be, and whether it may be None.
_LIMITS = {
    "learning_rate": (-math.inf, math.inf, True),
    "beta_1": (0, 1, False),
    "beta_2": (0, 1, False),
    "epsilon": (0, math.inf, False),
    "weight_decay": (0, math.inf, True),
    "clipnorm": (0, math.inf, True),
    "clipvalue": (0, math.inf, True),
    "global_clipnorm": (0, math.inf, True),
    "loss_scale_factor": (0, math.inf, True),
}


def check_numbers(arguments):
    """Raises an error for a number that no optimizer of Keras can train with.

    A bad one would otherwise fail in the first step, or make weights that are no numbers.

    Args:
        arguments: `{name: value}`. Names that are not known are not checked.
    """
    for name in [name for name in _LIMITS if name in arguments]:
        _check_number(name, arguments[name], *_LIMITS[name])
    # Keras compares it with 2 only.
    if arguments.get("gradient_accumulation_steps") is not None:
        check_whole("gradient_accumulation_steps", arguments["gradient_accumulation_steps"])


def _check_number(name, value, least, limit, may_be_none):
    if (value is None and may_be_none) or (name == "learning_rate" and callable(value)):
        return
    # A tensor's value may not be known yet.
    if tf.is_tensor(value) or isinstance(value, keras.Variable):
        return
    kinds = {(0, 1): "a number in [0, 1)", (0, math.inf): "a finite number of at least 0"}
    kind = kinds.get((least, limit), "a finite number")
    kind += ", a schedule or a callable" if name == "learning_rate" else ""
    kind += ", or None" if may_be_none else ""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"Argument `{name}` must be {kind}. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    if not (least <= value < limit and math.isfinite(value)):
        raise ValueError(f"Argument `{name}` must be {kind}. Received: {name}={value!r}")
