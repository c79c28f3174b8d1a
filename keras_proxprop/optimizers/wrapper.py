"""The optimizer inside of a `ProxProp`, which makes the steps."""

import keras

from keras_proxprop.optimizers.row_adam import RowAdam


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
    if identifier is None:
        arguments = {} if learning_rate is None else {"learning_rate": learning_rate}
        return RowAdam(**arguments, **kwargs)
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
            f"Keras optimizer, or None. Received: inner_optimizer={identifier!r} "
            f"(of type {type(identifier).__name__})"
        )
    arguments = dict(config["config"], **kwargs)
    if learning_rate is not None:
        arguments["learning_rate"] = learning_rate
    return keras.optimizers.get({**config, "config": arguments})


class OptimizerWrapper(keras.optimizers.Optimizer):
    """An optimizer around another, which makes the steps and has all that Keras, its
    callbacks and `LossScaleOptimizer` read from an optimizer, or set.

    Args:
        inner_optimizer: Keras optimizer.
        name: name of the optimizer, or `None`.
    """

    def __init__(self, inner_optimizer, name):
        if isinstance(
            inner_optimizer, (OptimizerWrapper, keras.optimizers.LossScaleOptimizer)
        ):
            raise ValueError(
                "Argument `inner_optimizer` must be an optimizer that makes plain steps; a "
                "LossScaleOptimizer goes around ProxProp, not into it. "
                f"Received: inner_optimizer={inner_optimizer!r}"
            )
        super().__init__(learning_rate=0.0, name=name)
        # The inner optimizer keeps learning rate and iterations: they would be two truths.
        # (Not untracked: TensorFlow cannot save a list that something was taken out of.)
        self._not_used = len(self._variables)
        self.inner_optimizer = inner_optimizer

    weight_decay = forwarded("weight_decay")
    clipnorm = forwarded("clipnorm")
    global_clipnorm = forwarded("global_clipnorm")
    clipvalue = forwarded("clipvalue")
    use_ema = forwarded("use_ema")
    ema_momentum = forwarded("ema_momentum")
    ema_overwrite_frequency = forwarded("ema_overwrite_frequency")
    loss_scale_factor = forwarded("loss_scale_factor")
    gradient_accumulation_steps = forwarded("gradient_accumulation_steps")
    _model_variables_moving_average = forwarded("_model_variables_moving_average")
    _trainable_variables = forwarded("_trainable_variables")
    _trainable_variables_indices = forwarded("_trainable_variables_indices")
    _iterations = forwarded("_iterations")
    _learning_rate = forwarded("_learning_rate")

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    @property
    def _own_variables(self):
        """The variables that the inner optimizer does not know."""
        return self._variables[self._not_used :]

    @property
    def variables(self):
        return self._own_variables + self.inner_optimizer.variables

    def build(self, variables):
        if self.built:
            return
        self.inner_optimizer.build(variables)
        self.built = True

    def set_weights(self, weights):
        own = self._own_variables
        self.inner_optimizer.set_weights(weights[len(own) :])
        for variable, weight in zip(own, weights):
            variable.assign(weight)

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list):
        self.inner_optimizer.finalize_variable_values(var_list)

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)
