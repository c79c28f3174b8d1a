"""The tape that returns implicit directions in place of gradients."""

import contextlib
import warnings
import weakref
from typing import Any

import keras
import tensorflow as tf

from keras_proxprop import replicas, solvers
from keras_proxprop.directions import replace_by_directions
from keras_proxprop.exclude import Exclude
from keras_proxprop.keras_seams.finite_step import all_finite
from keras_proxprop.keras_seams.layers import layers_of, native
from keras_proxprop.keras_seams.provenance import grant
from keras_proxprop.keras_seams.recording import Recorder
from keras_proxprop.memory.step import check_kept
from keras_proxprop.optimizers.damped_steps import warn_damped
from keras_proxprop.plan import Plan
from keras_proxprop.problem import row_counts
from keras_proxprop.solvers.solver import Solver
from keras_proxprop.tau import Tau, check_tau
from keras_proxprop.weights import variable_key

_warned: weakref.WeakSet = weakref.WeakSet()


class ImplicitGradientTape(tf.GradientTape):
    """A `tf.GradientTape` that returns implicit directions for a model's linear layers.

    The tape records the forward pass inside its context. For the weights of every supported
    layer `gradient` then returns the direction of the layer's proximal step,

        P = (AᵀA + I/τ)⁻¹ Aᵀ D,    D = ∂L/∂z,

    and for all other weights their gradient. Any Keras optimizer takes both, a `ProxProp` too.
    `jacobian` and `batch_jacobian` return derivatives with nothing implicit. Tapes around this
    tape, or inside of it, return what they return without it. A tape around this tape may
    differentiate a direction, which has the derivative of the exact solution.

    Args:
        model: `keras.Model` whose layers are recorded.
        tau: proximal step size: a positive float, a scalar tensor, or "auto" (ten divided by
            the mean curvature of each layer, as in `ProxProp`). Defaults to `1.0`.
        solver: "auto" (default), "exact", "cg", or a solver of `keras_proxprop.solvers`.
        final_layer: "explicit" (default, as in the paper) or "implicit": the step of final
            layers, which have no other layer with weights between them and a model output.
        exclude: names, types or instances of layers that take explicit steps.
        memory: the Gram matrices that a `ProxProp` keeps, from its `step_arguments()`.
            Defaults to `None`: each batch's own Gram matrices.
        observer: a `StepMonitor` that looks at every implicit solve, or `None` (default).
        persistent: whether `gradient` may be called more than once. Defaults to `False`.
        watch_accessed_variables: whether all trainable variables that are read are watched.
            Defaults to `True`. If `False`, only variables that you `watch` have directions.
        cross_replica: "exact" (default) or "mean", as in `ProxProp`.
        iterations: number of steps so far, by which the moving statistics of
            `BatchNormalization` keep up with the weights in early steps. Defaults to `None`:
            each layer's own `momentum`.

    Raises:
        TypeError: if `model` is not a `keras.Model`, or `exclude` holds something else
            than layer names, types and instances.
        ValueError: if `tau` is not positive and finite, `solver`, `final_layer` or
            `cross_replica` is unknown, `iterations` is no whole number, or (on `gradient`)
            `exclude` names no layer of the model.

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
        model: keras.Model,
        tau: float | tf.Tensor | str = 1.0,
        solver: str | Solver = "auto",
        final_layer: str = "explicit",
        exclude: Exclude = (),
        memory=None,
        observer: keras.callbacks.Callback | None = None,
        persistent: bool = False,
        watch_accessed_variables: bool = True,
        cross_replica: str = "exact",
        iterations: int | tf.Tensor | keras.Variable | None = None,
    ) -> None:
        super().__init__(persistent, watch_accessed_variables)
        memory = check_kept(memory)
        self._plan = Plan(model, solvers._get(solver), final_layer, exclude, memory)
        self._tau = Tau(check_tau(tau, schedules=False))
        self._observer = observer
        self._cross_replica = replicas.check_cross_replica(cross_replica)
        self._keeps, self._watches_all = persistent, watch_accessed_variables
        # Whether this tape is making a gradient now, and whether it does so for a Jacobian.
        self.asked = self._jacobian = False
        self._damped: list = []
        # Whether the loss and all that `gradient` returned, or what that is made of, are
        # finite, on this replica.
        self.finite = tf.constant(True)
        # What `shared_by_rows` yielded, where the loss was made with it.
        self._batch = None
        self._recorder = Recorder(model, self._block, self, iterations, self._plan.excludes)

    def __enter__(self):
        # Where layers have their names already: before a forward pass changes any statistics.
        if all(layer.built for layer in layers_of(self._plan.model)):
            self._plan.check_exclude_matches()
        super().__enter__()
        self._recorder.start()
        return self

    def __exit__(self, *exception):
        self._recorder.stop()
        super().__exit__(*exception)

    @contextlib.contextmanager
    def stop_recording(self):
        """Context in which nothing is recorded, as in `tf.GradientTape.stop_recording`."""
        with super().stop_recording(), self._recorder.paused():
            yield

    def reset(self) -> None:
        """Forgets all that was recorded."""
        super().reset()
        self._recorder.clear()

    # Inside of a user's `tf.function`, AutoGraph would rewrite every function called here.
    @tf.autograph.experimental.do_not_convert
    def gradient(
        self,
        target: Any,
        sources: Any,
        output_gradients: list | None = None,
        unconnected_gradients: str | tf.UnconnectedGradients = tf.UnconnectedGradients.NONE,
    ) -> Any:
        """Returns implicit directions, and gradients for sources without a direction.

        Args:
            target: the loss, or a nest of tensors that add up to the loss.
            sources: a nest of variables or tensors.
            output_gradients: list of tensors by which those of `target` are multiplied.
                Defaults to `None`: ones.
            unconnected_gradients: "none" or "zero", or a `tf.UnconnectedGradients`: the result
                for a source on which the loss does not depend. Defaults to "none".

        Returns:
            A nest like `sources`: a direction, a gradient, or `None` (or zeros) where the
            loss does not depend on a source.

        Raises:
            RuntimeError: if the tape is not `persistent` and this is the second call.
        """
        zero = tf.UnconnectedGradients(unconnected_gradients) == tf.UnconnectedGradients.ZERO
        self._plan.check_exclude_matches()
        flat = tf.nest.flatten(sources)
        wanted = {variable_key(s) for s in flat}
        members = self._plan.members(self._recorder, target, wanted, self._jacobian)
        zs = [use.z for member in members for use in member.uses]
        self._damped, self.asked = [], True
        try:
            gradients = super().gradient(target, zs + flat, output_gradients)
        finally:
            self.asked = False
        d = dict(zip(map(id, zs), gradients))
        found = {variable_key(s): g for s, g in zip(flat, gradients[len(zs) :])}
        members = self._plan.without_tied(self._recorder, members, found)
        batch_size = self._recorder.batch_size
        if not self._keeps:
            self._recorder.stop()
            self._recorder.clear()
        with replicas.apart(self._cross_replica == "mean"):
            sizes, self._damped, made_of = replace_by_directions(
                found, members, d, self._plan, batch_size, self._tau, target, self._observer
            )
        if not self._jacobian:
            self._warn_if_all_explicit(members, found)
        if tf.executing_eagerly() and self.damped:
            warn_damped("This step was")
        for source in flat:
            if zero and found[variable_key(source)] is None:
                found[variable_key(source)] = tf.zeros_like(native(source))
        directions = [found[variable_key(s)] for s in flat]
        if not self._jacobian:
            parts = [made_of.get(variable_key(s), found[variable_key(s)]) for s in flat]
            parts = tf.nest.flatten([parts, target], expand_composites=True)
            self.finite = all_finite({id(part): part for part in parts}.values())
            grant(map(native, flat), directions, sizes, self.finite, self._batch)
        return tf.nest.pack_sequence_as(sources, directions)

    def jacobian(self, *args, **kwargs):
        """Returns what `tf.GradientTape.jacobian` returns, with nothing implicit."""
        with self._as_function():
            return super().jacobian(*args, **kwargs)

    def batch_jacobian(self, *args, **kwargs):
        """Returns what `tf.GradientTape.batch_jacobian` returns, with nothing implicit."""
        with self._as_function():
            return super().batch_jacobian(*args, **kwargs)

    @contextlib.contextmanager
    def _as_function(self):
        self._jacobian = True
        try:
            yield
        finally:
            # The notes on damping are tensors in the graph of a loop, out of reach from here.
            self._jacobian, self._damped = False, []

    def _row_counts(self):
        """Returns the number of rows of every problem, and how many an item has."""
        with self.stop_recording():
            return row_counts(self._plan.members(self._recorder))

    def _block(self, layer):
        """Returns the layer's block if this tape watches any of its weights, else `None`."""
        block = self._plan.block(layer)
        if block is None or self._watches_all:
            return block
        watched = set(map(id, self.watched_variables()))
        return block if any(variable_key(w) in watched for w in block.weights) else None

    @property
    def damped(self) -> tf.Tensor:
        """A boolean tensor: whether the last `gradient` damped the problem of some layer.

        A problem is damped where rounding, even in float64, hides the smallest curvatures
        beside the largest one. The step is then a little shorter along the smallest ones.
        """
        return tf.reduce_any(tf.stack(self._damped)) if self._damped else tf.constant(False)

    def _warn_if_all_explicit(self, members, found):
        """Warns once where all of the model's weights have a step, and none is implicit."""
        model = self._plan.model
        trained = [variable_key(w) for w in model.trainable_variables]
        if not trained or any(found.get(key) is None for key in trained):
            return
        if model not in _warned and all(member.why is not None for member in members):
            _warned.add(model)
            warnings.warn(
                f"No layer of model {model.name!r} takes an implicit step: it is trained by "
                "explicit steps only. `keras_proxprop.summary(model)` says why.",
                stacklevel=4,
            )
