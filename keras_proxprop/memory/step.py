"""What one training step does with the curvature that an optimizer keeps."""

import functools

import tensorflow as tf

from keras_proxprop.memory.averaged_gram import Averaged
from keras_proxprop.memory.curvature_memory import CurvatureMemory
from keras_proxprop.memory.refresh import refresh, turns_of
from keras_proxprop.solvers import price


class StepMemory:
    """The `Curvatures` of an optimizer, for one training step.

    Args:
        curvatures: `Curvatures`.
        step: number of steps so far, a scalar tensor.
        place: function of a variable that returns its place among the optimizer's.
    """

    def __init__(self, curvatures, step, place):
        self._curvatures = curvatures
        self._step = tf.cast(step, tf.int64)
        self.solvers = functools.partial(curvatures.solvers, place=place)

    def refreshed(self, problems, solvers, tau, finite):
        """Returns the solvers of a step's problems, after a refresh of memory if one is due.

        Args:
            problems: list of `Problem`s, each with its `Rows`.
            solvers: what `solvers` returned.
            tau: `Tau`.
            finite: function that returns whether all that the step is made of is finite, a
                boolean tensor. Otherwise memory stays what it was.
        """
        averaged = [i for i, solver in enumerate(solvers) if isinstance(solver, Averaged)]
        if not averaged:
            return solvers
        problems = [problems[i] for i in averaged]
        sizes = [rows.features for _, rows in problems]
        prices = [price.factorized_gram(r, price.typical_count(r)) for _, r in problems]
        damped = refresh(
            [solvers[i].state() for i in averaged],
            turns_of(prices, sizes),
            lambda i: problems[i][0].fixed().rows(),
            self._step,
            tau,
            self._curvatures.memory,
            finite,
        )
        solvers = list(solvers)
        for i, was_damped in zip(averaged, damped):
            solvers[i] = solvers[i].after_refresh(was_damped)
        return solvers


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
