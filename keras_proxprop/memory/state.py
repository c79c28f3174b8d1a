"""What a `CurvatureMemory` keeps in an optimizer's variables."""

import io
import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_proxprop import machine, replicas
from keras_proxprop.keras_seams.scratch import elsewhere
from keras_proxprop.memory.averaged_gram import KEPT, AveragedGram
from keras_proxprop.solvers import price
from keras_proxprop.weights import variable_of, weight_key

# Saved beside the states: for what it was chosen which problems have memory (whether it was a
# GPU, and the batch size), and the places of the problems' first weights.
_ON_GPU = "curvature_on_gpu"
_BATCH_SIZE = "curvature_batch_size"
_WEIGHTS = "curvature_weights"


class Curvatures:
    """The averaged Gram matrices of one optimizer's problems, made as they are first met.

    Args:
        memory: `CurvatureMemory`.
        name: the optimizer's.
        apart: whether every replica of a strategy keeps its own. Defaults to `False`.
    """

    def __init__(self, memory, name, apart=False):
        self.memory = memory
        self._synchronization = "on_read" if apart else "auto"
        self._name = name
        self._strategy = tf.distribute.get_strategy()
        self._states = {}
        # Of every problem that was met, the place of its first weight among the optimizer's.
        self._places = []
        # What a saved state holds of problems that are not met yet, with the places of their
        # weights, which are `None` where they were not saved: then problems come in order.
        self._loaded = []
        # What was loaded for problems of another shape.
        self._unused = []
        # The machine for which a loaded state was made: with another one's choice of problems
        # a state of the right shape could be another problem's.
        self._machine = None
        # The batch size for which the problems with memory were chosen, once a step was made:
        # what is kept of them is made once.
        self._chosen_for = None
        # That of the training that begins.
        self._expected = None

    def expect(self, batch_size):
        """Notes the batch size of the training that begins, `None` where it is not known."""
        self._expected = batch_size

    def solvers(self, problems, solver, batch_size, for_good, place):
        """Returns what solves every problem: `solver`, or an `Averaged`.

        Args:
            problems: list of all `Problem`s of implicit steps, each with its `Rows`.
            solver: `Solver` of problems without memory.
            batch_size: that of this step, `None` where it is not known.
            for_good: whether from now on the same problems have memory.
            place: function of a variable that returns its place among the optimizer's.
        """
        batch_size = self._chosen_for or self._batch_size(batch_size)
        if for_good and problems:
            self._chosen_for = batch_size
        return [self._solver(*each, solver, batch_size, place) for each in problems]

    def _batch_size(self, of_step):
        """Returns the batch size for which to choose. It is `price.TYPICAL` where it is not
        known, not the same on all workers, or that of replicas which are apart."""
        known = self._expected
        # A replica's own is a part of the whole.
        if of_step is not None and replicas.in_sync() * replicas.parts() == 1:
            known = of_step
        if self._synchronization == "on_read" or replicas.on_several_workers(self._strategy):
            known = None
        # Below that the choice at run time is among the batch's own forms.
        return max(known or 0, price.TYPICAL)

    def _solver(self, problem, rows, solver, batch_size, place):
        weight = problem.members[0].weights[0]
        key = weight_key(weight), rows.features, rows.groups

        def state():
            if key not in self._states:
                own = place(variable_of(weight))
                self._states[key] = self._next(rows, own)
                self._places.append(own)
            return self._states[key]

        with machine.used(self._machine or machine.in_force()):
            return self.memory.solver(rows, problem.columns, solver, state, batch_size)

    def _next(self, rows, place):
        """Returns what is kept of a problem that is met for the first time."""
        shape = (rows.features, rows.features)
        shape = shape if rows.groups == 1 else (rows.groups, *shape)
        state = _taken(self._loaded, lambda saved: saved in (None, place))
        if state is not None:
            if _fits(state, shape):
                return state
            self._unused.append(state)
        return self._new(shape, rows.dtype.name)

    def _new(self, shape, dtype):
        place = f"curvature_{len(self._all)}"

        def variable(name, shape=(), dtype=dtype):
            return keras.Variable(
                initializer="zeros",
                shape=shape,
                dtype=dtype,
                trainable=False,
                synchronization=self._synchronization,
                aggregation="only_first_replica",
                name=f"{place}_{name}",
            )

        def new():
            with self._strategy.scope(), keras.name_scope(self._name):
                return AveragedGram(
                    average=variable("average", shape),
                    inverse=variable("inverse", shape),
                    weight=variable("weight", dtype="float64"),
                    row_count=variable("rows", dtype="float64"),
                    refreshed=variable("refreshed", dtype="int64"),
                    batch=variable("batch", dtype="float64"),
                )

        # A tf.function that makes variables is traced twice.
        return elsewhere(new)

    @property
    def _placed(self):
        """What is saved: states, each with the place of its weight."""
        return [*zip(self._places, self._states.values()), *self._loaded]

    @property
    def _saveable(self):
        return [state for _, state in self._placed]

    @property
    def _all(self):
        return self._saveable + self._unused

    @property
    def variables(self):
        return [v for state in self._all for v in state.variables]

    def save(self):
        """Returns the state as `{name: array}`, the problems numbered as they were met."""
        named = self.named(v.numpy() for state in self._saveable for v in state.variables)
        return {**named, **self.made_for()}

    def made_for(self):
        """Returns what is saved besides variables, if there are any: for what they were
        chosen."""
        if not self._saveable:
            return {}
        made_for = self._machine or machine.of_device(None, self._strategy)
        batch_size = self._chosen_for or price.TYPICAL
        places = [-1 if place is None else place for place, _ in self._placed]
        return {
            _ON_GPU: np.array(made_for is machine.GPU),
            _BATCH_SIZE: np.array(batch_size),
            _WEIGHTS: np.array(places),
        }

    @staticmethod
    def named(arrays):
        """Returns as `save` does what is kept of problems, one after the other."""
        arrays = list(arrays)
        places = [f"curvature_{i}_{name}" for i in range(len(arrays)) for name in KEPT]
        return dict(zip(places, arrays))

    def load(self, saved):
        """Takes over a state that `save` returned: every problem what was kept of its weights,
        or, where that is not saved, what was kept of the problem in its place.

        Problems that the state does not hold begin anew.
        """
        if _ON_GPU in saved:
            self._machine = machine.GPU if saved[_ON_GPU] else machine.CPU
            self._chosen_for = int(saved.get(_BATCH_SIZE, price.TYPICAL))
        number = len(saved) // len(KEPT)
        left = self._placed
        places = saved.get(_WEIGHTS, [place for place, _ in left] + number * [None])
        places = [None if place in (None, -1) else int(place) for place in places]
        for i in range(number):
            arrays = [saved[f"curvature_{i}_{name}"] for name in KEPT]
            state = _taken(left, lambda place, own=places[i]: own in (None, place))
            if state is None:
                state = self._new(arrays[0].shape, arrays[0].dtype.name)
                self._loaded.append((places[i], state))
            if _fits(state, arrays[0].shape):
                for variable, array in zip(state.variables, arrays):
                    variable.assign(array)
        for state in [state for _, state in left] + self._unused:
            for variable in state.variables:
                variable.assign(tf.zeros_like(variable))


class Checkpointed(tf.train.experimental.PythonState):
    """What `Curvatures` keep, as a `tf.train.Checkpoint` writes it, and restores it at once:
    variables that are not there yet it could only restore when they are made."""

    def __init__(self, curvatures):
        self._curvatures = curvatures

    def serialize(self):
        save = self._curvatures.save
        # A SavedModel asks in a graph, where variables have no arrays; no `tf.init_scope`
        # leads out of it.
        named = save() if tf.executing_eagerly() else elsewhere(save)
        file = io.BytesIO()
        np.savez(file, **named)
        return file.getvalue()

    def deserialize(self, string_value):
        with np.load(io.BytesIO(string_value), allow_pickle=False) as saved:
            self._curvatures.load(dict(saved))


def _taken(placed, suits):
    """Takes the first state whose place suits out of a list, and returns it, `None` if there
    is none."""
    index = next((i for i, (place, _) in enumerate(placed) if suits(place)), None)
    return None if index is None else placed.pop(index)[1]


def _fits(state, shape):
    """Returns whether a state is of this shape, and warns where it is not."""
    name, own = state.average.name, tuple(state.average.shape)
    if own != tuple(shape):
        warnings.warn(
            f"Skipping variable loading for {name!r}: its shape is {own}, which does not "
            f"fit {tuple(shape)}. The curvature of its layer is averaged anew, "
            "which needs nothing of you; the model's weights are loaded as they were saved.",
            stacklevel=2,
        )
    return own == tuple(shape)
