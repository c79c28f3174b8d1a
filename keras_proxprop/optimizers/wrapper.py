"""The optimizer inside of a `ProxProp`, which makes the steps."""

import difflib
import inspect
import numbers
import warnings
from typing import Any

import keras
import tensorflow as tf

from keras_proxprop import replicas
from keras_proxprop.keras_seams.optimizer_state import (
    ForwardedState,
    arrays_of,
    optimizer_of,
    slot_index,
)
from keras_proxprop.keras_seams.sums import Sums, not_again
from keras_proxprop.optimizers.hyperparameters import check_numbers
from keras_proxprop.optimizers.schedule_free_adam import ScheduleFreeAdam

# Names that Keras's optimizers had.
_FORMER = {"lr": "learning_rate"}


def make(identifier, learning_rate, kwargs, outer):
    """Returns the optimizer that `identifier` names, with its arguments set.

    Args:
        identifier: name, config or instance of a Keras optimizer, or `None`; or, where no
            `learning_rate` is given, the learning rate.
        learning_rate: the learning rate to set, or `None` to leave the optimizer's own.
        kwargs: further arguments of the optimizer.
        outer: the class to which the arguments were given.
    """
    if learning_rate is None and _is_rate(identifier):
        identifier, learning_rate = None, identifier
    check_numbers({**kwargs, "learning_rate": learning_rate})
    if isinstance(identifier, keras.optimizers.Optimizer):
        if kwargs:
            _check_known(kwargs, type(identifier), outer)
            raise ValueError(
                f"Argument(s) {sorted(kwargs)} belong to the inner optimizer, which was given "
                "as an instance: pass them where it is made, to "
                f"`{type(identifier).__name__}(...)`."
            )
        if learning_rate is not None:
            identifier.learning_rate = learning_rate
        return identifier
    if identifier is not None:
        _check_identifier(identifier)
    arguments = kwargs if learning_rate is None else {**kwargs, "learning_rate": learning_rate}

    def new(arguments):
        if identifier is None:
            return ScheduleFreeAdam(**arguments)
        form = {"class_name": identifier} if isinstance(identifier, str) else dict(identifier)
        form["config"] = {**(form.get("config") or {}), **arguments}
        optimizer = keras.optimizers.deserialize(form)
        _check_identifier(identifier, isinstance(optimizer, keras.optimizers.Optimizer))
        return optimizer

    try:
        return new(arguments)
    except (TypeError, ValueError):
        if kwargs:
            _check_known(kwargs, type(new({})), outer)
        raise


def _check_identifier(identifier, known=True):
    named = isinstance(identifier, dict) and isinstance(identifier.get("class_name"), str)
    if known and (isinstance(identifier, str) or named):
        return
    hint = " Two learning rates are given: pass one." if _is_rate(identifier) else ""
    raise (ValueError if isinstance(identifier, (str, dict)) else TypeError)(
        "Argument `inner_optimizer` must be the name, the config or an instance of a Keras "
        f"optimizer, or None.{hint} Received: inner_optimizer={identifier!r} "
        f"(of type {type(identifier).__name__})"
    )


def _is_rate(value):
    """Returns whether a value is a learning rate, which Keras's own optimizers take first."""
    rates = numbers.Real, keras.optimizers.schedules.LearningRateSchedule
    return isinstance(value, rates) and not isinstance(value, bool)


def _check_known(kwargs, inner, outer):
    """Raises an error for an argument that neither of two optimizer classes has."""
    parameters = [inspect.signature(c.__init__).parameters for c in (*inner.__mro__, outer)]
    known = set().union(*parameters) - {"self", "args", "kwargs"}
    for name in sorted(set(kwargs) - known):
        close = _FORMER.get(name) or next(
            iter(difflib.get_close_matches(name, known, 1)), None
        )
        hint = f" Did you mean `{close}={kwargs[name]!r}`?" if close else ""
        raise TypeError(
            f"{outer.__name__} has no argument `{name}`, and its inner optimizer "
            f"({inner.__name__}) has none either.{hint} Received: {name}={kwargs[name]!r}"
        )


class OptimizerWrapper(ForwardedState, keras.optimizers.Optimizer):
    """An optimizer around an inner one, which makes the steps and keeps all that Keras, its
    callbacks and `LossScaleOptimizer` read from an optimizer, or set.

    Args:
        inner_optimizer: Keras optimizer.
        name: name of the optimizer, or `None`.
    """

    # The `Curvatures`, which make more variables during training, if there are any.
    _curvatures: Any = None

    def __init__(self, inner_optimizer, name):
        if isinstance(
            inner_optimizer, (OptimizerWrapper, keras.optimizers.LossScaleOptimizer)
        ):
            raise ValueError(
                "Argument `inner_optimizer` must be an optimizer that makes plain steps, such "
                "as 'adam': no ProxProp, and no LossScaleOptimizer, which goes around a "
                "ProxProp. "
                f"Received: inner_optimizer={inner_optimizer!r}"
            )
        super().__init__(learning_rate=0.0, name=name)
        self.keep_state_in(inner_optimizer)
        self._sums = Sums()

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def optimizers(self):
        """The optimizers of an inner `MultiOptimizer`, for which Keras's callbacks look."""
        return self.inner_optimizer.optimizers

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    @property
    def _first_variables(self):
        """The variables that exist as soon as the optimizer is built."""
        return self.own_variables + self.inner_optimizer.variables

    @property
    def variables(self):
        return self._first_variables + (self._curvatures.variables if self._curvatures else [])

    @property
    def _inside(self):
        """The inner optimizer, and those in it if it is a `MultiOptimizer`."""
        return self.inner_optimizer, *getattr(self, "optimizers", ())

    def _place(self, variable):
        """Returns the place of a variable among those that its optimizer was built for."""
        return slot_index(optimizer_of(self.inner_optimizer, variable), variable)

    @property
    def _accumulates(self):
        return any(getattr(each, "gradient_accumulation_steps", None) for each in self._inside)

    def _agreed(self, directions):
        """Context with what replicas agree upon before the step; see `Sums.of`."""
        return self._sums.of(directions, self._accumulates)

    def _step(self, directions, variables):
        """Has the inner optimizer make its step with what replicas have agreed upon."""
        # TensorFlow's sum of one replica's part is the part, in a graph that is never freed.
        with not_again(replicas.in_sync() == 1 or not self._accumulates):
            self.inner_optimizer.apply(directions, variables)

    def __dir__(self):
        # Keras would save what it finds here once more, beside this optimizer's variables.
        hidden = ("inner_optimizer", "optimizers", "_inside")
        return [name for name in super().__dir__() if name not in hidden]

    def build(self, variables):
        if self.built:
            return
        self.inner_optimizer.build(variables)
        self.built = True

    def set_weights(self, weights):
        own, first = self.own_variables, len(self._first_variables)
        self.inner_optimizer.set_weights(weights[len(own) : first])
        for variable, weight in zip(own, weights):
            variable.assign(weight)
        if self._curvatures:
            self._curvatures.load(self._curvatures.named(weights[first:]))

    def save_own_variables(self, store):
        for i, variable in enumerate(self._first_variables):
            store[str(i)] = variable.numpy()
        for name, array in (self._curvatures.save() if self._curvatures else {}).items():
            store[name] = array

    def load_own_variables(self, store):
        numbered, named = arrays_of(store)
        if len(numbered) != len(self._first_variables):
            warnings.warn(
                f"Skipping variable loading for optimizer {self.name!r}: it has "
                f"{len(self._first_variables)} variables, and {len(numbered)} were saved. "
                "They are another optimizer's, or this one is not built yet: then call "
                "`optimizer.build(model.trainable_variables)` before you load.",
                stacklevel=2,
            )
            return
        for variable, array in zip(self._first_variables, numbered):
            variable.assign(array)
        if self._curvatures:
            self._curvatures.load(named)

    # Inside of a user's `tf.function`, AutoGraph would rewrite it.
    @tf.autograph.experimental.do_not_convert
    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list):
        self.inner_optimizer.finalize_variable_values(var_list)

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)
