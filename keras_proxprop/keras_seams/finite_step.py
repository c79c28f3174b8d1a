"""A step whose loss or directions are not finite is not made: it changes nothing."""

import functools

import tensorflow as tf

from keras_proxprop import replicas
from keras_proxprop.rows.arrays import working_dtype


def all_finite(tensors):
    """Returns whether every entry of these tensors is finite, on every replica."""
    tensors = [t.values if isinstance(t, tf.IndexedSlices) else t for t in tensors]
    tensors = [tf.convert_to_tensor(t) for t in tensors if t is not None]
    tensors = [t for t in tensors if t.dtype.is_floating]
    # A sum takes one pass and no memory, and is not finite where an entry is not.
    sums = [tf.reduce_sum(tf.cast(t, working_dtype(t.dtype))) for t in tensors]
    kinds = {s.dtype: [t for t in sums if t.dtype == s.dtype] for s in sums}
    totals = [tf.math.is_finite(tf.add_n(kind)) for kind in kinds.values()]
    finite = functools.reduce(tf.logical_and, totals) if totals else tf.constant(True)
    if replicas.in_sync() == 1:
        return finite
    return replicas.total(tf.cast(~finite, "int32")) == 0


def told_to_all(finite, directions):
    """Returns directions that are finite on no replica if they are not finite on all.

    Keras's `LossScaleOptimizer` looks at the directions of one replica only.
    """
    if replicas.in_sync() == 1:
        return directions
    sizes = {
        i: direction.shape.num_elements()
        for i, direction in enumerate(directions)
        if isinstance(direction, tf.Tensor) and direction.shape.is_fully_defined()
    }
    if not sizes:
        return directions
    # One direction that is not finite is enough.
    smallest, directions = min(sizes, key=sizes.get), list(directions)
    none = tf.constant(float("nan"), directions[smallest].dtype)
    directions[smallest] = tf.where(finite, directions[smallest], none)
    return directions


def step_if(finite, step, directions):
    """Calls an optimizer's `step(directions)` if `finite`, which is equal on all replicas."""

    # Some strategies take no `tf.cond` around what their replicas meet in: it goes around all
    # of them, as in Keras's `LossScaleOptimizer`.
    def across_replicas(strategy, finite, directions):
        def apply():
            strategy.extended.call_for_each_replica(step, args=(directions,))

        tf.cond(strategy.experimental_local_results(finite)[0], apply, lambda: None)

    context = tf.distribute.get_replica_context()
    if tf.__internal__.distribute.strategy_supports_no_merge_call() or context is None:
        tf.cond(finite, lambda: step(directions), lambda: None)
    else:
        context.merge_call(across_replicas, args=(finite, directions))
