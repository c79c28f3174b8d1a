"""What one training step does with the curvature that an optimizer keeps."""

import tensorflow as tf

from keras_proxprop import replicas
from keras_proxprop.keras_seams.finite_step import step_if
from keras_proxprop.memory.averaged_gram import KEPT, Averaged, refresh
from keras_proxprop.memory.curvature_memory import CurvatureMemory


class StepMemory:
    """The `Curvatures` of an optimizer, for one training step.

    Args:
        curvatures: `Curvatures`.
        step: number of steps so far, a scalar tensor.
    """

    def __init__(self, curvatures, step):
        self._curvatures = curvatures
        self._step = tf.cast(step, tf.int64)
        self._pending = None
        self.solver = curvatures.solver

    def refreshed(self, problems, solvers, tau):
        """Returns the solvers of a step's problems, those of memory with their inverses.

        What memory keeps changes only in `commit`.

        Args:
            problems: `Problem`s.
            solvers: what `solver` returned for each.
            tau: `Tau`.
        """
        averaged = [i for i, solver in enumerate(solvers) if isinstance(solver, Averaged)]
        if not averaged:
            return solvers
        states = [solvers[i].state() for i in averaged]

        def rows():
            return [problems[i].fixed().rows() for i in averaged]

        due, values, damped = refresh(states, rows, self._step, tau, self._curvatures.memory)
        self._pending = due, [state.variables for state in states], values
        solvers = list(solvers)
        for i, new, was_damped in zip(averaged, values, damped):
            solvers[i] = solvers[i].at(new[KEPT.index("inverse")], was_damped)
        return solvers

    def commit(self, finite):
        """Takes over what was made for this step if all of the step is `finite`."""
        if self._pending is None:
            return
        (due, variables, values), self._pending = self._pending, None

        def assign():
            for own, new in zip(variables, values):
                for variable, value in zip(own, new):
                    variable.assign(value)

        # In steps without a refresh there is nothing that replicas would have to tell.
        if replicas.in_sync() > 1:
            finite = replicas.cond(due, lambda: replicas.every(finite), lambda: finite)
        step_if(due & finite, assign)


def check_kept(memory):
    """Returns `memory` if it is what an optimizer keeps, or `None`."""
    if isinstance(memory, CurvatureMemory) or (isinstance(memory, str) and memory == "auto"):
        raise ValueError(
            "Argument `memory` of a tape is what a `ProxProp` keeps in its variables from "
            "step to step: pass the tape `**optimizer.step_arguments()`, or memory=None. "
            f"Received: memory={memory!r}"
        )
    if memory is not None and not isinstance(memory, StepMemory):
        raise TypeError(
            "Argument `memory` of a tape must be None, or as `ProxProp.step_arguments()` has "
            f"it. Received: memory={memory!r} (of type {type(memory).__name__})"
        )
    return memory
