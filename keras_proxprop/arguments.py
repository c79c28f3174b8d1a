"""Checks that arguments of several classes and functions have in common."""

import numbers

import tensorflow as tf


def check_choice(name, value, choices):
    """Returns the value of an argument if it is one of these strings."""
    if not isinstance(value, str) or value not in choices:
        *first, last = map(repr, choices)
        listed = f"{', '.join(first)} or {last}"
        raise ValueError(f"Argument `{name}` must be {listed}. Received: {name}={value!r}")
    return value


def check_no_configs(**arguments):
    """Raises an error where an argument of a `ProxProp` is the config of what it should be."""
    for name, value in arguments.items():
        if isinstance(value, dict):
            raise TypeError(
                f"Argument `{name}` is a config, as `get_config()` returns it: make the "
                "optimizer with `ProxProp.from_config(config)`, not `ProxProp(**config)`. "
                f"Received: {name}={value!r}"
            )


def check_whole(name, value):
    """Returns the value of an argument as an int if it is a whole number of at least 1."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < 1:
        raise ValueError(
            f"Argument `{name}` must be an integer of at least 1. Received: {name}={value!r}"
        )
    return int(value)


def check_iterations(iterations):
    """Returns a number of steps so far, or `None`, if it is one: a scalar that is whole."""
    if iterations is None:
        return None
    value = None
    try:
        value = tf.convert_to_tensor(iterations)
    except (TypeError, ValueError):
        pass
    if value is None or not value.dtype.is_integer or value.shape.rank:
        raise ValueError(
            "Argument `iterations` must be the number of steps so far, a whole number, as in "
            f"`optimizer.iterations`, or None. Received: iterations={iterations!r}"
        )
    return value
