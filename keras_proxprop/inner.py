"""The optimizer inside of a `ProxProp`, which makes the steps."""

import keras

# What was best over the tasks of `examples/benchmarks/time_to_target.py`, of those that ask
# for different ones.
_LEARNING_RATE_OF_ADAM = 0.002


def forwarded(name):
    """Returns a property of that name that only the inner optimizer keeps."""

    def get(self):
        return getattr(self.inner_optimizer, name)

    def set_(self, value):
        # Keras's constructor sets its defaults before there is an inner optimizer.
        if hasattr(self, "inner_optimizer"):
            setattr(self.inner_optimizer, name, value)

    return property(get, set_, doc=f"The inner optimizer's `{name}`.")


def make(identifier, learning_rate, kwargs):
    """Returns the optimizer that `identifier` names, with its arguments set."""
    if isinstance(identifier, keras.optimizers.Optimizer):
        if kwargs:
            raise ValueError(
                f"Argument(s) {sorted(kwargs)} belong to the inner optimizer, which was given "
                f"as an instance: pass them to {type(identifier).__name__}(...) itself."
            )
        if learning_rate is not None:
            identifier.learning_rate = learning_rate
        return identifier
    config = identifier
    if isinstance(identifier, str):
        config = {"class_name": identifier, "config": {}}
    if not isinstance(config, dict):
        raise TypeError(
            "Argument `inner_optimizer` must be the name, the config or an instance of a "
            f"Keras optimizer. Received: inner_optimizer={identifier!r} "
            f"(of type {type(identifier).__name__})"
        )
    arguments = dict(config["config"], **kwargs)
    if learning_rate is None and identifier == "adam":
        learning_rate = _LEARNING_RATE_OF_ADAM
    if learning_rate is not None:
        arguments["learning_rate"] = learning_rate
    return keras.optimizers.get({**config, "config": arguments})
