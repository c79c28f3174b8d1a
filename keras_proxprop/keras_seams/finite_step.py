"""A step whose loss or directions are not finite is not made: it changes nothing."""

import functools
import math

import tensorflow as tf

from keras_proxprop import replicas
from keras_proxprop.rows.arrays import working_dtype


def all_finite(tensors):
    """Returns whether every entry of these tensors is finite."""
    tensors = [tf.convert_to_tensor(values_of(t)) for t in tensors if t is not None]
    tensors = [t for t in tensors if t.dtype.is_floating]
    # A sum takes one pass and no memory, and is not finite where an entry is not. There are
    # many tensors: one constant for all that have as many axes.
    ranks = {t.shape.rank for t in tensors}
    axes = {rank: tf.constant([*range(rank)], tf.int32) for rank in ranks - {None}}
    tensors = [tf.cast(t, working_dtype(t.dtype)) for t in tensors]
    sums = [tf.reduce_sum(t, axes.get(t.shape.rank)) for t in tensors]
    kinds = {s.dtype: [t for t in sums if t.dtype == s.dtype] for s in sums}
    totals = [tf.math.is_finite(tf.add_n(kind)) for kind in kinds.values()]
    return functools.reduce(tf.logical_and, totals) if totals else tf.constant(True)


def finite_only_if(finite, directions):
    """Returns directions of which one is not finite if `finite` does not hold.

    So their sum over replicas is not finite either, whatever others have.
    """
    sizes = {
        i: tf.convert_to_tensor(values_of(direction)).shape.num_elements() or math.inf
        for i, direction in enumerate(directions)
        if direction is not None
    }
    if not sizes:
        return directions
    # One direction is enough.
    smallest, directions = min(sizes, key=sizes.get), list(directions)
    values = tf.convert_to_tensor(values_of(directions[smallest]))
    found = tf.where(finite, values, tf.constant(float("nan"), values.dtype))
    if isinstance(directions[smallest], tf.IndexedSlices):
        slices = directions[smallest]
        found = tf.IndexedSlices(found, slices.indices, slices.dense_shape)
    directions[smallest] = found
    return directions


def values_of(direction):
    """Returns the entries of a direction, a tensor, also where the direction is sparse."""
    return direction.values if isinstance(direction, tf.IndexedSlices) else direction


def step_if(finite, step):
    """Calls `step()`, which returns nothing, if `finite`, which is equal on all replicas."""
    replicas.cond(finite, lambda: step() or (), lambda: (), assigns=True)
