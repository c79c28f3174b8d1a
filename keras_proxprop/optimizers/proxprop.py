"""ProxProp: any Keras optimizer, on implicit directions."""

from typing import Any

import keras
import tensorflow as tf

from keras_proxprop import replicas, solvers
from keras_proxprop.arguments import check_no_configs
from keras_proxprop.exclude import Exclude, check_exclude, exclude_config, exclude_from_config
from keras_proxprop.keras_seams import distributed_fit, installing, provenance
from keras_proxprop.keras_seams.finite_step import step_if
from keras_proxprop.keras_seams.names import known_by_name
from keras_proxprop.memory.curvature_memory import CurvatureMemory, check_memory
from keras_proxprop.memory.state import Checkpointed, Curvatures
from keras_proxprop.memory.step import StepMemory
from keras_proxprop.optimizers.damped_steps import DampedSteps
from keras_proxprop.optimizers.problem_size import sizes_known
from keras_proxprop.optimizers.row_adam import LearningRate
from keras_proxprop.optimizers.wrapper import OptimizerWrapper, make
from keras_proxprop.plan import check_final_layer
from keras_proxprop.reports import explanation
from keras_proxprop.solvers.solver import Solver
from keras_proxprop.tau import Schedule, check_tau, tau_config, tau_variable


@known_by_name
@keras.saving.register_keras_serializable(package="keras_proxprop")
class ProxProp(OptimizerWrapper):
    """Optimizer that implements Proximal Backpropagation.

    For every layer that is linear in its weights the gradient is replaced by the
    direction of an implicit (proximal) step,

        P = (AᵀA + I/τ)⁻¹ Aᵀ D,

    where the rows of `A` are the layer's inputs (for a convolution their patches), and `D` is
    the loss's gradient with respect to the layer's preactivations. The inner optimizer then
    makes its step with `P`. Weights that cannot take an implicit step take an ordinary one;
    `keras_proxprop.summary(model)` shows which, and why.

    Use it in `compile` of any Keras model, which stays as it is. In the first steps the moving
    statistics of `BatchNormalization` average over fewer steps than `momentum` says. In a
    loop of your own, use `keras_proxprop.ImplicitGradientTape` in place of `tf.GradientTape`.

    Args:
        inner_optimizer: name, config or instance of the Keras optimizer that steps along the
            directions. Defaults to `None`: a `keras_proxprop.ScheduleFreeAdam`, which gives
            each layer steps of a fitting length, and averages them. A number or a schedule in
            this place is taken as `learning_rate`: `ProxProp(0.001)`, like `Adam(0.001)`.
        learning_rate: the inner optimizer's learning rate: a float, a
            `keras.optimizers.schedules.LearningRateSchedule`, or `None` (default) to leave it
            as it is in the inner optimizer, 0.001 for `ScheduleFreeAdam`.
        tau: proximal step size τ: a positive float, a `LearningRateSchedule` of the
            inner optimizer's iterations, or "auto": ten over each layer's mean curvature,
            `10 F / trace(AᵀA)` with `F` features, which suits the scale of the inputs and any
            number of rows. Directions approach `tau` times the gradient for small values, and
            least-squares steps for large ones. Defaults to "auto"; the paper has 1 and 0.05.
        solver: "auto" (default: exact, or conjugate gradients where exact steps cost too
            much), "exact", "cg", or a solver of `keras_proxprop.solvers`.
        final_layer: "explicit" (default, as in the paper) or "implicit": the step of final
            layers, which have no other layer with weights between them and a model output.
        exclude: layers that take explicit steps: names, types or instances. A
            `BatchNormalization` among them averages by its own `momentum`.
        memory: a `keras_proxprop.CurvatureMemory`, which averages Gram matrices over batches,
            or `None`: every step uses those of its own batch, as in the paper. Defaults to
            `"auto"`: a `CurvatureMemory()` where `solver` is "auto", else `None`.
        cross_replica: under `tf.distribute`, "exact" (default): the replicas together make
            the step that one device makes with the whole batch; or "mean": each assumes that
            the others have rows like its own, and the replicas send each other only gradients.
        name: name of the optimizer.
        **kwargs: further arguments of the inner optimizer (`weight_decay`, `clipnorm`,
            `use_ema`, `gradient_accumulation_steps`, `momentum`, ...), if it is not given as
            an instance. They act on directions in the place of gradients: clipping clips
            directions, and accumulation averages the directions of several batches.

    Raises:
        ValueError: if `tau` is not positive and finite, `solver`, `final_layer` or
            `cross_replica` is unknown, `memory` is given with conjugate gradients, the inner
            optimizer is a `ProxProp` or a `LossScaleOptimizer`, or is an instance while
            `kwargs` are given, or the current strategy is refused (`TPUStrategy`, for one).
        TypeError: if an argument has the wrong type, or neither `ProxProp` nor the inner
            optimizer has an argument of `kwargs`.

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
        inner_optimizer: str | dict | keras.optimizers.Optimizer | LearningRate | None = None,
        learning_rate: LearningRate | None = None,
        tau: float | str | keras.optimizers.schedules.LearningRateSchedule = "auto",
        solver: str | Solver = "auto",
        final_layer: str = "explicit",
        exclude: Exclude = (),
        memory: str | CurvatureMemory | None = "auto",
        cross_replica: str = "exact",
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        distributed_fit.check_strategy(tf.distribute.get_strategy())
        check_no_configs(tau=tau, solver=solver, memory=memory, learning_rate=learning_rate)
        tau = check_tau(tau)
        solver = solvers._get(solver)
        final_layer = check_final_layer(final_layer)
        exclude = check_exclude(exclude)
        memory = check_memory(memory, solver)
        cross_replica = replicas.check_cross_replica(cross_replica)
        super().__init__(make(inner_optimizer, learning_rate, kwargs, type(self)), name)
        self.solver = solver
        self.final_layer = final_layer
        self.cross_replica = cross_replica
        self._exclude = exclude
        self._tau = tau if isinstance(tau, (Schedule, str)) else tau_variable(self, tau)
        self._damped_steps = self.add_variable(
            shape=(), dtype="int64", aggregation="only_first_replica", name="damped_steps"
        )
        self.damped_steps = DampedSteps(self._damped_steps)
        self._memory = memory
        self._curvatures = memory and Curvatures(memory, self.name, cross_replica == "mean")
        if memory:
            self._checkpointed = Checkpointed(self._curvatures)
        self._observer = None
        installing.install()

    @property
    def tau(self) -> float | str | tf.Tensor | keras.Variable:
        """The proximal step size at the current iteration, or "auto"; assign to change it."""
        if isinstance(self._tau, Schedule):
            return self._tau(self.iterations)
        return self._tau

    @tau.setter
    def tau(self, tau: float) -> None:
        tau = check_tau(tau)
        if isinstance(tau, (Schedule, str)) or isinstance(self._tau, (Schedule, str)):
            raise TypeError(
                "`tau` can be assigned only a number, and only where it was created with a "
                "number. Create a new `ProxProp` to use a schedule, or 'auto'. "
                f"Received: tau={tau!r}, where it is {self._tau!r}"
            )
        self._tau.assign(tau)

    @property
    def exclude(self) -> Exclude:
        """The layers that take explicit steps."""
        return self._exclude

    @property
    def memory(self) -> CurvatureMemory | None:
        """The `CurvatureMemory`, or `None` if steps use the Gram matrices of their batch."""
        return self._memory

    # Inside of a user's `tf.function`, AutoGraph would rewrite it.
    @tf.autograph.experimental.do_not_convert
    def step_arguments(self) -> dict[str, Any]:
        """Returns the arguments of the `ImplicitGradientTape` of one training step."""
        tau = self.tau
        return {
            **self.plan_arguments(),
            "tau": tau if isinstance(tau, str) else tf.convert_to_tensor(tau),
            "observer": self._observer,
            "cross_replica": self.cross_replica,
            "iterations": self.iterations,
        }

    def plan_arguments(self):
        """Returns those of `step_arguments()` that decide how each weight steps."""
        return {
            "solver": self.solver,
            "final_layer": self.final_layer,
            "exclude": self._exclude,
            "memory": self._curvatures
            and StepMemory(self._curvatures, self.iterations, self._place),
        }

    def observe_with(self, observer):
        """Has a `StepMonitor`, or `None`, look at all steps that are traced from now on."""
        self._observer = observer

    @tf.autograph.experimental.do_not_convert
    def apply(self, grads, trainable_variables=None) -> None:
        """Makes the inner optimizer's step with implicit directions.

        Args:
            grads: what `ImplicitGradientTape.gradient` returned, a list.
            trainable_variables: the variables of `grads`. Defaults to `None`: all, if built.

        Raises:
            RuntimeError: if `grads` are plain gradients.
        """
        variables = self.built_for
        if trainable_variables is not None:
            variables = trainable_variables = list(trainable_variables)
        provenance.check(grads, variables)
        if not self.built and trainable_variables is not None:
            with keras.name_scope(self.name, caller=self):
                self.build(trainable_variables)
        known = sizes_known(self._inside, variables, lambda: provenance.sizes_of(variables))
        with known, self._agreed(grads) as (grads, finite):
            # The formula of the step is the inner optimizer's, with directions for gradients.
            step_if(finite, lambda: self._step(grads, trainable_variables))

    def finalize_variable_values(self, var_list):
        super().finalize_variable_values(var_list)
        explanation.say(self)
        self.damped_steps.report()

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "inner_optimizer": serialize(self.inner_optimizer),
            "tau": tau_config(self._tau),
            "solver": serialize(self.solver),
            "final_layer": self.final_layer,
            "exclude": exclude_config(self._exclude),
            "memory": self._memory and serialize(self._memory),
            "cross_replica": self.cross_replica,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for key in ("inner_optimizer", "learning_rate", "tau", "solver", "memory"):
            if isinstance(config.get(key), dict):
                config[key] = keras.saving.deserialize_keras_object(
                    config[key], custom_objects=custom_objects
                )
        config["exclude"] = exclude_from_config(config.get("exclude", ()), custom_objects)
        return cls(**config)

    def __repr__(self):
        tau = self._tau if isinstance(self._tau, Schedule) else tau_config(self._tau)
        return (
            f"ProxProp({type(self.inner_optimizer).__name__}, tau={tau!r}, "
            f"solver={self.solver}, final_layer={self.final_layer!r}, "
            f"exclude={list(self._exclude)}, memory={self._memory})"
        )
