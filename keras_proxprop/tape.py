"""The tape that returns implicit directions in place of gradients."""

import dataclasses
import warnings
import weakref

import tensorflow as tf

from keras_proxprop import solvers
from keras_proxprop.keras_seams.finite_step import all_finite
from keras_proxprop.keras_seams.provenance import grant
from keras_proxprop.keras_seams.recording import Recorder
from keras_proxprop.plan import Plan
from keras_proxprop.problem import Problem
from keras_proxprop.solvers.gradient import Gradient
from keras_proxprop.tau import Tau, check_tau
from keras_proxprop.weights import WeightSlice, native, variable_key

_warned = weakref.WeakSet()


class ImplicitGradientTape:
    """A `tf.GradientTape` that returns implicit directions for a model's linear layers.

    The forward pass inside its context is recorded; `gradient` then returns, for the
    weights of every supported layer, the direction of its proximal step

        P = (AᵀA + I/τ)⁻¹ Aᵀ D,    D = ∂L/∂z,

    and for all other weights the gradient. Both can be handed to any Keras optimizer,
    a `ProxProp` included.

    Args:
        model: `keras.Model` whose layers are recorded.
        tau: proximal step size: a positive float, a scalar tensor, or "auto": ten over the
            mean curvature of each layer, as in `ProxProp`. Defaults to `1.0`.
        solver: "auto" (default), "exact", "cg", or a solver of `keras_proxprop.solvers`.
        final_layer: "explicit" (default, as in the paper) or "implicit": the step of
            layers with no other weighted layer between them and a model output.
        exclude: names, types or instances of layers that take explicit steps.
        memory: the Gram matrices that a `ProxProp` keeps, as in its `step_arguments()`;
            `None` (default) is to use the batch's own.
        observer: what looks at every implicit solve, a `StepMonitor`; or `None` (default).

    Raises:
        TypeError: if `model` is not a `keras.Model`, or `exclude` holds something else
            than layer names, types and instances.
        ValueError: if `tau` is not positive and finite, `solver` or `final_layer` is
            unknown, or (on `gradient`) `exclude` names no layer of the model.

    Example:

    >>> optimizer = keras.optimizers.Adam()
    >>> with keras_proxprop.ImplicitGradientTape(model, tau=1.0) as tape:
    ...     loss = loss_fn(y, model(x, training=True))
    >>> directions = tape.gradient(loss, model.trainable_variables)
    >>> optimizer.apply_gradients(zip(directions, model.trainable_variables))

    Source: Frerix et al., *Proximal Backpropagation*, ICLR 2018, Algorithm 1 and
    equation (12).
    """

    def __init__(
        self,
        model,
        tau=1.0,
        solver="auto",
        final_layer="explicit",
        exclude=(),
        memory=None,
        observer=None,
    ):
        self._plan = Plan(model, solvers._get(solver), final_layer, exclude, memory)
        self._tau = Tau(check_tau(tau, schedules=False))
        self._observer = observer
        self._tape = tf.GradientTape()
        self._damped = []
        # Whether the loss, and all that `gradient` returned, is: what is not makes no step.
        self.finite = tf.constant(True)
        self._recorder = Recorder(model, self._plan.block, self._tape.watch)

    def __enter__(self):
        # As soon as the names are known: before a forward pass changes any statistics.
        if all(layer.built for layer in self._plan.model._flatten_layers()):
            self._plan.check_exclude_matches()
        self._tape.__enter__()
        self._recorder.start()
        return self

    def __exit__(self, *exception):
        self._recorder.stop()
        self._tape.__exit__(*exception)

    def watch(self, tensor):
        """Ensures that `tensor` is traced, as `tf.GradientTape.watch` does."""
        self._tape.watch(tensor)

    # In a `tf.function` of the user's, AutoGraph would rewrite all that is called from here.
    @tf.autograph.experimental.do_not_convert
    def gradient(self, target, sources):
        """Returns implicit directions, and gradients for what has none.

        Args:
            target: the loss, or a nest of tensors whose sum it is.
            sources: a nest of variables or tensors.

        Returns:
            A nest like `sources`: a direction, a gradient, or `None` where the loss does
            not depend on a source.
        """
        self._plan.check_exclude_matches()
        flat = tf.nest.flatten(sources)
        wanted = {variable_key(s) for s in flat}
        members = self._plan.members(self._recorder, target, wanted)
        if wanted & set(map(variable_key, self._plan.model.trainable_variables)):
            self._warn_if_all_explicit(members)
        zs = [use.z for member in members for use in member.uses]
        gradients = self._tape.gradient(target, zs + flat)
        d = dict(zip(map(id, zs), gradients))
        found = {variable_key(s): g for s, g in zip(flat, gradients[len(zs) :])}
        # Weights that are slices of one variable do not see each other's directions.
        rest = dict(found)
        counts = {}
        members = _reached(members, d)
        for problem in Problem.group(members):
            rows = problem.rows()
            solver = self._plan.solver(problem, rows)
            if self._observer is not None:
                solver = self._observer.observe(problem, solver)
            self._solve(problem, rows, solver, d, rest, found)
            weights = [w for member in problem.members for w in member.weights]
            counts |= {variable_key(w): rows.count for w in weights}
        for member in members:
            if member.why is not None:
                problem = Problem([member])
                self._solve(problem, problem.rows(), Gradient(), d, found, found)
        if tf.executing_eagerly() and self.damped:
            warn_damped("This step was")
        directions = [found[variable_key(s)] for s in flat]
        self.finite = all_finite(directions + tf.nest.flatten(target))
        self._plan.commit(self.finite)
        grant(map(native, flat), directions, counts, self.finite)
        return tf.nest.pack_sequence_as(sources, directions)

    @property
    def damped(self):
        """Whether `gradient` had to damp the problem of some layer, a boolean tensor.

        That happens where rounding, in float64 even, leaves nothing of a layer's smallest
        curvatures next to its largest: the step is then a little shorter in those.
        """
        return tf.reduce_any(tf.stack(self._damped)) if self._damped else tf.constant(False)

    def _solve(self, problem, rows, solver, d, rest, found):
        """Puts the problem's directions in the place of its weights' gradients."""
        directions, damped = problem.solve(
            rows,
            [[d[id(use.z)] for use in member.uses] for member in problem.members],
            [[_read(rest, w) for w in member.weights] for member in problem.members],
            solver,
            self._tau,
        )
        self._damped.append(damped)
        for member, parts in zip(problem.members, directions):
            for weight, part in zip(member.weights, parts):
                if variable_key(weight) in found:
                    _write(found, weight, tf.cast(part, weight.dtype))

    def _warn_if_all_explicit(self, members):
        model = self._plan.model
        if model not in _warned and all(member.why is not None for member in members):
            _warned.add(model)
            warnings.warn(
                f"No layer of model {model.name!r} takes an implicit step: it is trained by "
                "explicit steps only. `keras_proxprop.summary(model)` says why.",
                stacklevel=4,
            )


def warn_damped(what, stacklevel=3):
    """Warns that steps were damped; `what` is the sentence's beginning."""
    warnings.warn(
        f"{what} damped: the inputs of some layer are so alike, or so different in scale, "
        "that their Gram matrix cannot be inverted with this tau in float64. Scale the "
        "inputs, or make tau smaller.",
        stacklevel=stacklevel,
    )


def _reached(members, d):
    """Returns the members without the uses that the loss does not depend on."""
    reached = []
    for member in members:
        uses = tuple(use for use in member.uses if d[id(use.z)] is not None)
        if uses:
            reached.append(dataclasses.replace(member, uses=uses))
    return reached


def _read(values, weight):
    """Returns the value of a weight or, where it is a slice of a variable, of its slice."""
    value = values.get(variable_key(weight))
    if value is None or not isinstance(weight, WeightSlice):
        return value
    return weight.read(value)


def _write(values, weight, value):
    if isinstance(weight, WeightSlice):
        value = weight.write(value, values[variable_key(weight)])
    values[variable_key(weight)] = value
