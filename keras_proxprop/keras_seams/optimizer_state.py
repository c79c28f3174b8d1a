"""The state of Keras's optimizers, for an optimizer whose inner optimizer keeps it."""

import numpy as np

from keras_proxprop.keras_seams.names import MULTI_OPTIMIZER


def forwarded(name):
    """Returns a property of that name that only the inner optimizer keeps."""

    def get(self):
        return getattr(self.inner_optimizer, name)

    def set_(self, value):
        # Keras's constructor sets its defaults before there is an inner optimizer.
        if hasattr(self, "inner_optimizer"):
            setattr(self.inner_optimizer, name, value)

    return property(get, set_, doc=f"The inner optimizer's `{name}`.")


def slot_index(optimizer, variable):
    """Returns the place of a variable among those for which an optimizer was built, or `None`
    if the optimizer was not built for this variable."""
    try:
        return optimizer._get_variable_index(variable)
    except KeyError:
        return None


def variables_of(optimizer):
    """Returns the variables that an optimizer was built for."""
    return optimizer._trainable_variables


def optimizer_of(optimizer, variable):
    """Returns the optimizer of a variable's steps, which a `MultiOptimizer` may hold."""
    if isinstance(optimizer, MULTI_OPTIMIZER):
        # This works before the optimizer is built, too.
        return optimizer._optimizer_map(variable)
    return optimizer


def arrays_of(store):
    """Returns what an optimizer has saved: a list of numbered arrays, and `{name: array}`."""
    numbered = {int(key) for key in store.keys() if key.isdecimal()}
    named = {key: np.array(store[key]) for key in store.keys() if not key.isdecimal()}
    return [np.array(store[str(i)]) for i in sorted(numbered)], named


class ForwardedState:
    """Forwards what Keras, its callbacks and its wrappers read from an optimizer, or set.

    An optimizer that inherits from this class has this state in its `inner_optimizer`. Keras
    has no public names for an optimizer's variables, for their places, and for the variables
    of `iterations` and `learning_rate`.
    """

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

    def keep_state_in(self, inner_optimizer):
        """Leaves all that Keras's constructor made to `inner_optimizer`."""
        # Else there would be two iterations and two learning rates. (These stay in the list,
        # unused: TensorFlow cannot save a list after an item was removed.)
        self._unused = len(self._variables)
        self.inner_optimizer = inner_optimizer

    @property
    def own_variables(self):
        """The variables that the inner optimizer does not know."""
        return self._variables[self._unused :]

    @property
    def built_for(self):
        """The variables that the optimizer was built for."""
        return variables_of(self)
