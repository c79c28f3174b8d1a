"""The replicas of a `tf.distribute` strategy, seen from the code that runs in one of them.

Directions of replicas are added up, as gradients are. A direction is linear in its right
side, so each replica makes a part from its right side and the matrix of all replicas' rows.
"""

import contextlib
import threading

import tensorflow as tf

from keras_proxprop.arguments import check_choice
from keras_proxprop.keras_seams.replica_branches import cond_around_replicas, of_all_here

_here = threading.local()


def in_sync():
    """Returns how many replicas make the step together: 1 outside of a strategy."""
    return 1 if getattr(_here, "apart", False) else _number()


def parts():
    """Returns how many replicas with rows like its own this replica stands for: 1, or all
    replicas where it is `apart`."""
    return _number() if getattr(_here, "apart", False) else 1


@contextlib.contextmanager
def apart(really=True):
    """Context in which this replica knows only its own rows.

    Args:
        really: whether the context changes anything. Defaults to `True`.
    """
    before = getattr(_here, "apart", False)
    _here.apart = before or really
    try:
        yield
    finally:
        _here.apart = before


def check_cross_replica(cross_replica):
    """Returns `cross_replica` if it is "exact" or "mean"."""
    return check_choice("cross_replica", cross_replica, ("exact", "mean"))


def _number():
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def total(values):
    """Returns the sum of a tensor, or of every tensor in a list, over all replicas."""
    if in_sync() == 1:
        return values
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def total_count(count):
    """Returns the sum of a number of rows: an int where it is the same int on all replicas."""
    if in_sync() == 1:
        return count
    if isinstance(count, int):
        if set(of_all_here(count)) == {count}:
            return count * in_sync()
    return total(tf.convert_to_tensor(count))


def total_counts(counts):
    """Returns what `total_count` returns, for every number of rows."""
    if in_sync() == 1:
        return counts
    if all(isinstance(count, int) for count in counts):
        totals = {count: total_count(count) for count in dict.fromkeys(counts)}
        return [totals[count] for count in counts]
    return tf.unstack(total(tf.stack([tf.cast(count, tf.int32) for count in counts])))


def total_symmetric(matrices):
    """Returns the sums of symmetric matrices, or of stacks of such, over all replicas, which
    send each other upper triangles."""
    if in_sync() == 1:
        return matrices
    packed = total([_packed(matrix) for matrix in matrices])
    return [_unpacked(p, matrix) for p, matrix in zip(packed, matrices)]


def every(condition):
    """Returns whether a condition holds on every replica."""
    return condition if in_sync() == 1 else total(tf.cast(~condition, "int32")) == 0


def gathered(rows):
    """Returns the rows of all replicas, one replica's after the other's."""
    if in_sync() == 1:
        return rows
    found = tf.distribute.get_replica_context().all_gather(rows, axis=0)
    return tf.ensure_shape(found, [None, *rows.shape[1:]])


def in_place(rows):
    """Returns this replica's rows, with zeros in the place of the other replicas' rows."""
    if in_sync() == 1:
        return rows
    before, after = around(tf.shape(rows)[0])
    return tf.pad(rows, [[before, after], [0, 0]])


def around(count):
    """Returns how many rows the replicas before this one have, and those after it."""
    counts = gathered(tf.convert_to_tensor(count)[None])
    own, others = index(), tf.range(in_sync())
    sides = others < own, others > own
    return [tf.reduce_sum(tf.where(side, counts, 0)) for side in sides]


def index():
    """Returns which of the replicas this one is, an int."""
    context = tf.distribute.get_replica_context()
    return int(tf.get_static_value(context.replica_id_in_sync_group))


def cond(condition, true_fn, false_fn):
    """Does what `tf.cond` does, with branches in which replicas may meet.

    Args:
        condition: boolean tensor, the same on every replica.
        true_fn, false_fn: functions that return nests of tensors of the same structure.
    """
    if in_sync() == 1:
        return tf.cond(condition, true_fn, false_fn)
    return cond_around_replicas(condition, true_fn, false_fn)


def _packed(matrix):
    """Returns the upper triangles of symmetric matrices, `[..., n (n + 1) / 2]`.

    Row `i` of a triangle and row `n - 1 - i`, turned around, have `n + 1` entries together.
    """
    n = matrix.shape[-1]
    upper = tf.linalg.band_part(matrix, 0, -1)
    above, below = upper[..., : -(-n // 2), :], upper[..., -(-n // 2) :, :]
    below = tf.reverse(below, [-2, -1])
    none = [[0, 0]] * (len(matrix.shape) - 2)
    above = tf.pad(above, [*none, [0, 0], [1, 0]])
    folded = above + tf.pad(below, [*none, [0, n % 2], [0, 1]])
    flat = tf.reshape(folded, [*matrix.shape[:-2], -1])
    # The row in the middle stands alone.
    middle = (n + 1) // 2 * (n % 2)
    return flat if not middle else tf.concat([flat[..., : -(n + 1)], flat[..., -middle:]], -1)


def _unpacked(flat, like):
    """Undoes `_packed` for matrices of the shape of `like`."""
    n, rows = like.shape[-1], -(-like.shape[-1] // 2)
    none = [[0, 0]] * (len(like.shape) - 2)
    if n % 2:
        middle = (n + 1) // 2
        last = tf.pad(flat[..., -middle:], [*none, [middle, 0]])
        flat = tf.concat([flat[..., :-middle], last], -1)
    folded = tf.reshape(flat, [*like.shape[:-2], rows, n + 1])
    above = tf.linalg.band_part(folded[..., 1:], 0, -1)
    below = tf.linalg.band_part(folded[..., : n // 2, :-1], -1, 0)
    upper = tf.concat([above, tf.reverse(below, [-2, -1])], -2)
    diagonal = tf.linalg.diag_part(upper)
    return tf.linalg.set_diag(upper + tf.linalg.matrix_transpose(upper), diagonal)
