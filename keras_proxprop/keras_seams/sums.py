"""Directions that replicas have added up before an optimizer of Keras gets them.

Keras's optimizers add up gradients last, when it is decided that a step is made. Sums are the
same on every replica, and not finite where a part is not. So every replica can tell from them
whether all make the step, and nothing need be sent for that.
"""

import contextlib
import functools

import keras

from keras_proxprop import replicas
from keras_proxprop.in_thread import InThread
from keras_proxprop.keras_seams.finite_step import all_finite, finite_only_if
from keras_proxprop.keras_seams.provenance import are_finite, note_finite

_added_up = InThread(False)


class Sums:
    """What the replicas of a step have agreed upon: no state for Keras to track."""

    def __init__(self):
        # The replicas of the step that is being made which know the sums already.
        self._knowing = set()

    @contextlib.contextmanager
    def of(self, directions, accumulated):
        """Context for the rest of a step; within itself it changes nothing.

        Args:
            directions: this replica's parts, some of which may be `None`.
            accumulated: whether they are averaged over batches before they are added up.

        Yields:
            The directions to give to an optimizer, and whether all replicas make a step with
            them, a boolean tensor.
        """
        finite, own = are_finite(directions), replicas.index()
        if replicas.in_sync() == 1 or own in self._knowing:
            yield directions, finite
            return
        if accumulated:
            # Sums come only after several batches.
            finite = replicas.every(finite)
            directions = finite_only_if(finite, directions)
        else:
            directions = _sums(finite_only_if(finite, directions))
            finite = all_finite(directions)
        note_finite(directions, finite)
        self._knowing.add(own)
        try:
            yield directions, finite
        finally:
            self._knowing.discard(own)


def _sums(directions):
    """Returns the sums of directions over all replicas."""
    parts = [part for part in directions if part is not None]
    sums = iter(replicas.total(parts) if parts else [])
    return [part if part is None else next(sums) for part in directions]


def not_again(really):
    """Context in which Keras's optimizers do not add up what they are given, if `really`."""
    return _added_up.set(really)


def install():
    """Has Keras's optimizers ask whether replicas have added up; a second call changes
    nothing."""
    optimizer = keras.optimizers.Optimizer
    scaled = keras.optimizers.LossScaleOptimizer
    if hasattr(optimizer._all_reduce_sum_gradients, "_proxprop"):
        return
    add_up, apply = optimizer._all_reduce_sum_gradients, scaled.apply

    @functools.wraps(add_up)
    def add_up_once(self, grads_and_vars):
        if _added_up.value:
            return list(grads_and_vars)
        return add_up(self, grads_and_vars)

    @functools.wraps(apply)
    def apply_sums(self, grads, trainable_variables=None):
        """Asks the sums whether they are finite. Keras asks the first replica's part only."""
        agreed = getattr(self.inner_optimizer, "_agreed", None)
        if agreed is None:
            return apply(self, grads, trainable_variables)
        with agreed(grads) as (sums, _):
            return apply(self, sums, trainable_variables)

    add_up_once._proxprop = True
    optimizer._all_reduce_sum_gradients = add_up_once
    scaled.apply = apply_sums
