"""Curvature memory: Gram matrices that are kept, averaged over batches."""

import concurrent.futures
import copy
import numbers
import warnings

import keras
import tensorflow as tf

from keras_proxprop.blocks.slices import weight_key
from keras_proxprop.config import Config
from keras_proxprop.solvers.auto import Auto
from keras_proxprop.solvers.averaged import KEPT, Averaged, AveragedGram


@keras.saving.register_keras_serializable(package="keras_proxprop")
class CurvatureMemory(Config):
    """Keeps Gram matrices from step to step, in the place of the batch's own.

    With `R` the rows of a batch, `AᵀA / R` changes slowly while a model trains. Its moving
    average `Ḡ` is refreshed and factorized every so many steps; between these a layer's
    direction costs a product with a matrix beyond its weight gradient:

        P = (R Ḡ + I/τ)⁻¹ Aᵀ D

    τ means what it means without memory, since `R Ḡ` stands for `AᵀA`: where all batches
    have the same Gram matrix the two directions are equal, as they are on the first step.
    (`R` is averaged too: a smaller last batch does not take a longer step. τ, where it
    changes, counts from the next refresh on.) The diagonal of the average is raised by
    10⁻⁵ of itself. Refreshes are many at first: one is due whenever the last is longer ago
    than a quarter of the training so far.

    A change of `D` changes the direction in proportion. So under `tf.distribute` the
    replicas, which keep one common average, together make the step of the global batch.

    Args:
        decay: float in [0, 1), what is left of the average after `refresh_every` steps.
            Defaults to `0.9`.
        refresh_every: int, steps from one refresh to the next. Defaults to `100`.
        layers: "auto" (default): those layers whose step is cheaper with memory than with
            the batch's own Gram matrix, by the count that `summary` prints, at a batch size
            of 64: convolutions, and what runs along sequences; "all": all layers that have a
            Gram matrix.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    >>> memory = keras_proxprop.CurvatureMemory(refresh_every=20)
    >>> model.compile(optimizer=keras_proxprop.ProxProp(memory=memory), loss="mse")

    Source: the averaged metric is that of FOOF (Benzing, *Gradient Descent on Neurons
    and its Link to Approximate Second-Order Optimization*, ICML 2022).
    """

    def __init__(self, decay=0.9, refresh_every=100, layers="auto"):
        number = isinstance(decay, numbers.Real) and not isinstance(decay, bool)
        if not number or not 0 <= decay < 1:
            raise ValueError(
                f"Argument `decay` must be a float in [0, 1). Received: decay={decay!r}"
            )
        whole = isinstance(refresh_every, numbers.Integral)
        if not whole or isinstance(refresh_every, bool) or refresh_every < 1:
            raise ValueError(
                "Argument `refresh_every` must be an integer of at least 1. "
                f"Received: refresh_every={refresh_every!r}"
            )
        if layers not in ("auto", "all"):
            raise ValueError(
                f"Argument `layers` must be 'auto' or 'all'. Received: layers={layers!r}"
            )
        self.decay = float(decay)
        self.refresh_every = int(refresh_every)
        self.layers = layers

    def get_config(self):
        return {
            "decay": self.decay,
            "refresh_every": self.refresh_every,
            "layers": self.layers,
        }

    def solver(self, rows, columns, solver, state=None):
        """Returns what solves for layers with these rows: `solver`, or an `Averaged`.

        Args:
            rows: `Rows`.
            columns: number of output columns.
            solver: `Solver` that solves with the batch's own rows.
            state: function that returns the `AveragedGram` to use; `None` to only `choose`.
        """
        averaged = Averaged(solver, self.decay, self.refresh_every, state)
        if rows.closed_form or not rows.can_average:
            return solver
        return averaged if self.layers == "all" or averaged.pays(rows, columns) else solver


def check_memory(memory, solver):
    """Returns `memory` as a `CurvatureMemory` or `None`."""
    if isinstance(memory, str) and memory == "auto":
        return CurvatureMemory() if isinstance(solver, Auto) else None
    if memory is not None and not isinstance(memory, CurvatureMemory):
        raise TypeError(
            "Argument `memory` must be 'auto', None or a `keras_proxprop.CurvatureMemory`. "
            f"Received: memory={memory!r} (of type {type(memory).__name__})"
        )
    if memory is not None and not solver.exact:
        raise ValueError(
            "Argument `memory` keeps factorized Gram matrices, for which conjugate gradients "
            "have no use: choose solver='auto' or 'exact', or memory=None. "
            f"Received: memory={memory!r}, solver={solver!r}"
        )
    return memory


class Curvatures:
    """The averaged Gram matrices of one optimizer's problems, made as they are first met.

    Args:
        memory: `CurvatureMemory`.
        add_variable: the optimizer's method of that name.
    """

    def __init__(self, memory, add_variable):
        self._memory = memory
        self._add_variable = add_variable
        self._states = {}
        self._step = None
        # Those of a saved state whose problems are not met yet, in the order of these.
        self._loaded = []
        # Those that were loaded for problems of another shape.
        self._unused = []

    def at(self, step):
        """Returns the same matrices, for a training step.

        Args:
            step: number of steps so far, a scalar tensor.
        """
        other = copy.copy(self)
        other._step = step
        return other

    def solver(self, problem, rows, solver):
        """Returns what solves `problem`: `solver`, or an `Averaged`."""
        key = weight_key(problem.members[0].weights[0]), rows.features, rows.groups

        def state():
            if key not in self._states:
                self._states[key] = self._next(rows)
            return self._states[key].at(self._step)

        return self._memory.solver(rows, problem.columns, solver, state)

    def _next(self, rows):
        """Returns what is kept of a problem that is met for the first time."""
        shape = (rows.features, rows.features)
        shape = shape if rows.groups == 1 else (rows.groups, *shape)
        if self._loaded:
            state = self._loaded.pop(0)
            if _fits(state, shape):
                return state
            self._unused.append(state)
        return self._new(shape, rows.dtype.name)

    def _new(self, shape, dtype):
        place = f"curvature_{len(self._all)}"

        def variable(name, shape=(), dtype=dtype):
            return self._add_variable(
                shape, dtype=dtype, aggregation="only_first_replica", name=f"{place}_{name}"
            )

        def new():
            with strategy.scope():
                return AveragedGram(
                    average=variable("average", shape),
                    inverse=variable("inverse", shape),
                    weight=variable("weight", dtype="float64"),
                    rows=variable("rows", dtype="float64"),
                    refreshed=variable("refreshed", dtype="int64"),
                )

        # From a thread of its own, which knows nothing of the graph that this step is traced
        # in, nor of the replica: a tf.function that makes variables is traced twice.
        strategy = tf.distribute.get_strategy()
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            return thread.submit(new).result()

    @property
    def _saveable(self):
        return [*self._states.values(), *self._loaded]

    @property
    def _all(self):
        return self._saveable + self._unused

    @property
    def variables(self):
        return [v for state in self._all for v in state.variables]

    def save(self):
        """Returns the state as `{name: array}`, the problems numbered as they were met."""
        return {
            f"curvature_{i}_{name}": getattr(state, name).numpy()
            for i, state in enumerate(self._saveable)
            for name in KEPT
        }

    def load(self, saved):
        """Takes over a state that `save` returned, for problems in the order of that.

        What that state knows nothing of is as new.
        """
        for i in range(len(saved) // len(KEPT)):
            arrays = [saved[f"curvature_{i}_{name}"] for name in KEPT]
            if i == len(self._saveable):
                self._loaded.append(self._new(arrays[0].shape, arrays[0].dtype.name))
            state = self._saveable[i]
            if _fits(state, arrays[0].shape):
                for variable, array in zip(state.variables, arrays):
                    variable.assign(array)
        for state in self._all[len(saved) // len(KEPT) :]:
            for variable in state.variables:
                variable.assign(tf.zeros_like(variable))


def _fits(state, shape):
    """Returns whether a state is of this shape, and warns where it is not."""
    name, own = state.average.name, tuple(state.average.shape)
    if own != tuple(shape):
        warnings.warn(
            f"Skipping variable loading for {name!r}: its shape is {own}, which does not "
            f"fit {tuple(shape)}. Its layer's curvature is averaged anew.",
            stacklevel=2,
        )
    return own == tuple(shape)
