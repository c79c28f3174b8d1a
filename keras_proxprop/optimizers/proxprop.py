"""ProxProp: any Keras optimizer, on implicit directions."""

import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_proxprop import solvers, tape
from keras_proxprop.keras_seams import provenance, train_step
from keras_proxprop.memory.curvature_memory import check_memory
from keras_proxprop.memory.state import Curvatures
from keras_proxprop.optimizers.row_adam import RowAdam
from keras_proxprop.optimizers.wrapper import OptimizerWrapper, make
from keras_proxprop.plan import check_exclude, check_final_layer
from keras_proxprop.tau import Schedule, check_tau


@keras.saving.register_keras_serializable(package="keras_proxprop")
class ProxProp(OptimizerWrapper):
    """Optimizer that implements Proximal Backpropagation.

    For every layer that is linear in its weights the gradient is replaced by the
    direction of an implicit (proximal) step,

        P = (AᵀA + I/τ)⁻¹ Aᵀ D,

    with `A` the layer's inputs as rows (the patches of a convolution), and `D` the loss's
    gradient with respect to the layer's preactivations; the inner optimizer then makes
    its step with `P`. Weights that cannot take an implicit step take an ordinary one;
    `keras_proxprop.summary(model)` shows which, and why.

    Use it in `compile` of any Keras model, which stays as it is. In a training loop of
    your own, use `keras_proxprop.ImplicitGradientTape` in place of `tf.GradientTape`.

    Args:
        inner_optimizer: name, config or instance of any Keras optimizer: what makes the
            step with the directions. Defaults to `None`: a `keras_proxprop.RowAdam`, which is
            Adam with longer steps for layers with more rows.
        learning_rate: the inner optimizer's learning rate: a float, a
            `keras.optimizers.schedules.LearningRateSchedule`, or `None` (default): as the
            inner optimizer has it, 0.001 for `RowAdam`.
        tau: proximal step size τ: a positive float, a `LearningRateSchedule` of the
            inner optimizer's iterations, or "auto": for every layer ten over its mean
            curvature, `10 F / trace(AᵀA)` with `F` features, whatever the scale of its inputs
            and the number of its rows. Small values approach `tau` times the gradient, large
            ones the least-squares step. Defaults to `"auto"`; the paper takes 1 and 0.05.
        solver: "auto" (default: exact, by conjugate gradients where that costs too
            much), "exact", "cg", or a solver of `keras_proxprop.solvers`.
        final_layer: "explicit" (default, as in the paper) or "implicit": the step of
            layers with no other weighted layer between them and a model output.
        exclude: layers that take explicit steps: names, types or instances.
        memory: a `keras_proxprop.CurvatureMemory`, which keeps Gram matrices averaged over
            batches, or `None`: every step uses its batch's own, as in the paper. Defaults to
            `"auto"`: a `CurvatureMemory()` where `solver` is "auto", else `None`.
        name: name of the optimizer.
        **kwargs: further arguments of the inner optimizer (`weight_decay`, `clipnorm`,
            `use_ema`, `gradient_accumulation_steps`, `momentum`, ...), where that is a name,
            a config or `None`. They mean what they mean there, with directions for gradients:
            clipping clips directions, accumulation averages those of several batches.

    Raises:
        ValueError: if `tau` is not positive and finite, `solver` or `final_layer` is
            unknown, or the inner optimizer is a `ProxProp` or a `LossScaleOptimizer`.
        TypeError: if an argument has the wrong type.

    Example:

    >>> model.compile(optimizer=keras_proxprop.ProxProp(), loss="mse")
    >>> model.fit(x, y)

    The paper's setting for fully connected networks:

    >>> sgd = keras.optimizers.SGD(1.0, momentum=0.95, nesterov=True)
    >>> proxprop = keras_proxprop.ProxProp(sgd, tau=0.05, memory=None)
    >>> model.compile(optimizer=proxprop, loss="mse")

    Source: Frerix et al., *Proximal Backpropagation*, ICLR 2018, Algorithm 1.
    """

    def __init__(
        self,
        inner_optimizer=None,
        learning_rate=None,
        tau="auto",
        solver="auto",
        final_layer="explicit",
        exclude=(),
        memory="auto",
        name=None,
        **kwargs,
    ):
        tau = check_tau(tau)
        solver = solvers._get(solver)
        final_layer = check_final_layer(final_layer)
        exclude = check_exclude(exclude)
        memory = check_memory(memory, solver)
        super().__init__(make(inner_optimizer, learning_rate, kwargs), name)
        self.solver = solver
        self.final_layer = final_layer
        self._exclude = exclude
        self._tau = tau if isinstance(tau, (Schedule, str)) else self._tau_variable(tau)
        self._damped_steps = self.add_variable(
            shape=(), dtype="int64", aggregation="only_first_replica", name="damped_steps"
        )
        self._damped_steps_reported = 0
        self._memory = memory
        self._curvatures = memory and Curvatures(memory, self.add_variable)
        self._observer = None
        train_step.install(find_proxprop)

    def _tau_variable(self, tau):
        # float64: a tau of 0.1 stays 0.1 for a model in float64. (Keras's Constant would
        # round it to float32 first.)
        return self.add_variable(
            shape=(),
            initializer=lambda shape, dtype: tf.constant(float(tau), dtype, shape),
            dtype="float64",
            aggregation="only_first_replica",
            name="tau",
        )

    @property
    def tau(self):
        """The proximal step size at the current iteration, or "auto"; assign to change it."""
        if isinstance(self._tau, Schedule):
            return self._tau(self.iterations)
        return self._tau

    @tau.setter
    def tau(self, tau):
        tau = check_tau(tau)
        if isinstance(tau, (Schedule, str)) or isinstance(self._tau, (Schedule, str)):
            raise TypeError(
                "`tau` can be assigned only a number, and only where it was created with a "
                "number. Create a new `ProxProp` to use a schedule, or 'auto'. "
                f"Received: tau={tau!r}, where it is {self._tau!r}"
            )
        self._tau.assign(tau)

    def _tau_config(self):
        if isinstance(self._tau, Schedule):
            return keras.saving.serialize_keras_object(self._tau)
        return self._tau if isinstance(self._tau, str) else float(self._tau.numpy())

    @property
    def exclude(self):
        """The layers that take explicit steps."""
        return self._exclude

    @property
    def memory(self):
        """The `CurvatureMemory`, `None` where every step uses its batch's own Gram matrix."""
        return self._memory

    def step_arguments(self):
        """Returns the arguments of the `ImplicitGradientTape` of one training step."""
        tau = self.tau
        return {
            **self.plan_arguments(),
            "tau": tau if isinstance(tau, str) else tf.convert_to_tensor(tau),
            "observer": self._observer,
        }

    def plan_arguments(self):
        """Returns those of `step_arguments` that decide which weights step how."""
        return {
            "solver": self.solver,
            "final_layer": self.final_layer,
            "exclude": self._exclude,
            "memory": self._curvatures and self._curvatures.at(self.iterations),
        }

    def observe_with(self, observer):
        """Has all steps that are traced from now on looked at by `observer`, or by none.

        Args:
            observer: `StepMonitor`, or `None`.
        """
        self._observer = observer

    def count_damped(self, damped):
        """Counts a step if `damped`: `fit` warns of their number at its end."""
        self._damped_steps.assign_add(tf.cast(damped, "int64"))

    def apply(self, grads, trainable_variables=None):
        """Makes the inner optimizer's step with implicit directions.

        Args:
            grads: what `ImplicitGradientTape.gradient` returned, a list.
            trainable_variables: the variables that belong to them.

        Raises:
            RuntimeError: if `grads` are plain gradients.
        """
        variables = self._trainable_variables
        if trainable_variables is not None:
            variables = trainable_variables = list(trainable_variables)
        plain = provenance.claim([v for g, v in zip(grads, variables) if g is not None])
        if plain:
            names = [getattr(v, "path", v.name) for v in plain]
            raise RuntimeError(
                "ProxProp received plain gradients, with which it would take explicit steps "
                f"only, for {names}. In a train_step of your own, put "
                "`keras_proxprop.ImplicitGradientTape(model)` in the place of "
                "`tf.GradientTape()`, or call `super().train_step(data)`."
            )
        if not self.built and trainable_variables is not None:
            with keras.name_scope(self.name, caller=self):
                self.build(trainable_variables)
        if isinstance(self.inner_optimizer, RowAdam):
            rows = provenance.rows_of(variables)
            self.inner_optimizer.apply_with_rows(grads, trainable_variables, rows)
        else:
            self.inner_optimizer.apply(grads, trainable_variables)

    @property
    def _settings(self):
        """Those of its own variables that there are from the beginning."""
        kept = self._curvatures.variables if self._curvatures else []
        return self._own_variables[: len(self._own_variables) - len(kept)]

    # Keras saves the inner optimizer as a part of this one: no need to save it here, too.
    def save_own_variables(self, store):
        for i, variable in enumerate(self._settings):
            store[str(i)] = variable.numpy()
        for name, array in (self._curvatures.save() if self._curvatures else {}).items():
            store[name] = array

    def load_own_variables(self, store):
        keys = list(store.keys())
        if sum(key.isdecimal() for key in keys) != len(self._settings):
            warnings.warn(
                f"Skipping variable loading for optimizer {self.name!r}: what was saved is "
                "not the state of a `ProxProp` with these arguments.",
                stacklevel=2,
            )
            return
        for i, variable in enumerate(self._settings):
            variable.assign(store[str(i)])
        if self._curvatures:
            kept = {k: np.array(store[k]) for k in keys if not k.isdecimal()}
            with self._distribution_strategy.scope():
                self._curvatures.load(kept)

    def finalize_variable_values(self, var_list):
        super().finalize_variable_values(var_list)
        damped = int(self._damped_steps.numpy())
        if damped > self._damped_steps_reported:
            tape.warn_damped(f"{damped - self._damped_steps_reported} training steps were")
        self._damped_steps_reported = damped

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "inner_optimizer": serialize(self.inner_optimizer),
            "tau": self._tau_config(),
            "solver": serialize(self.solver),
            "final_layer": self.final_layer,
            "exclude": [_exclude_config(entry) for entry in self._exclude],
            "memory": self._memory and serialize(self._memory),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for key in ("inner_optimizer", "learning_rate", "tau", "solver", "memory"):
            if isinstance(config.get(key), dict):
                config[key] = keras.saving.deserialize_keras_object(
                    config[key], custom_objects=custom_objects
                )
        config["exclude"] = [
            keras.saving.deserialize_keras_object(entry, custom_objects=custom_objects)
            if isinstance(entry, dict)
            else entry
            for entry in config.get("exclude", ())
        ]
        return cls(**config)

    def __repr__(self):
        inner_name = type(self.inner_optimizer).__name__
        tau = self._tau if isinstance(self._tau, Schedule) else self._tau_config()
        return (
            f"ProxProp({inner_name}, tau={tau!r}, solver={self.solver}, "
            f"final_layer={self.final_layer!r}, exclude={list(self._exclude)}, "
            f"memory={self._memory})"
        )


def find_proxprop(optimizer):
    """Returns the `ProxProp` that `optimizer` is or scales losses for, or `None`."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer if isinstance(optimizer, ProxProp) else None


def _exclude_config(entry):
    """Returns an entry of `exclude` as it can be saved: a layer instance by its name."""
    if isinstance(entry, keras.Layer):
        return entry.name
    return entry if isinstance(entry, str) else keras.saving.serialize_keras_object(entry)
