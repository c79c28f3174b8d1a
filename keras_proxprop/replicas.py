"""The replicas of a `tf.distribute` strategy, seen from the code that runs in one of them.

Directions of replicas are added up, as gradients are. A direction is linear in its right
side, so each replica makes a part from its right side and the matrix of all replicas' rows.
"""

import math

import tensorflow as tf

from keras_proxprop.arguments import check_choice
from keras_proxprop.in_thread import InThread
from keras_proxprop.keras_seams.replica_branches import (
    cond_around_replicas,
    must_assign_around,
    of_all_here,
)
from keras_proxprop.rows.arrays import key_of_size

_apart = InThread(False)


def in_sync():
    """Returns how many replicas make the step together: 1 outside of a strategy."""
    return 1 if _apart.value else _number()


def parts():
    """Returns how many replicas with rows like its own this replica stands for: 1, or all
    replicas where it is `apart`."""
    return _number() if _apart.value else 1


def apart(really=True):
    """Context in which this replica knows only its own rows.

    Args:
        really: whether the context changes anything. Defaults to `True`.
    """
    return _apart.set(_apart.value or really)


def check_cross_replica(cross_replica):
    """Returns `cross_replica` if it is "exact" or "mean"."""
    return check_choice("cross_replica", cross_replica, ("exact", "mean"))


def _number():
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def on_several_workers(strategy):
    """Returns whether some replicas of a `tf.distribute.Strategy` are in other processes."""
    number = strategy.num_replicas_in_sync
    return number > 1 and len(strategy.extended.worker_devices) < number


def total(values):
    """Returns the sum of a tensor, or of every tensor in a list, over all replicas."""
    if in_sync() == 1:
        return values
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def total_count(count):
    """Returns the sum of a number of rows over all replicas, as `total_counts` does."""
    return total_counts([count])[0]


def total_counts(counts):
    """Returns the sums of numbers of rows over all replicas, ints where all are ints.

    Replicas of one process send each other nothing: numbers of rows are read from shapes,
    which are in the memory of the host. Others send those that are not known before a step.
    """
    if in_sync() == 1 or not counts:
        return counts
    own = {key_of_size(count): count for count in counts}
    totals = dict(zip(own, map(_total_here, of_all_here(list(own.values())))))
    sent = [key for key, known in totals.items() if known is None]
    if sent:
        parts = tf.stack([tf.cast(own[key], tf.int32) for key in sent])
        totals.update(zip(sent, tf.unstack(total(parts))))
    return [totals[key_of_size(count)] for count in counts]


def items_here(items):
    """Returns the number of items in the whole batch, `None` where it has to be sent, or there
    is one replica.

    Args:
        items: number of items on this replica.
    """
    return None if in_sync() == 1 else _total_here(of_all_here([items])[0])


def total_items(items, rows):
    """Returns the number of items in the whole batch. It sends one number, or two.

    Args:
        items: number of items on this replica.
        rows: function that returns `[(number of rows, rows per item)]` of all problems.

    Returns:
        The number, and a boolean tensor: whether every problem has that many rows per item on
        all replicas.
    """
    own = tf.cast(items, tf.int32)
    alike = [tf.cast(count, tf.int32) == own * per_item for count, per_item in rows()]
    own = tf.cast(own, tf.float32)
    # A sum with one part that is not a number is none.
    found = total(tf.where(tf.reduce_all(tf.stack(alike)), own, math.nan) if alike else own)
    alike = ~tf.math.is_nan(found)
    return cond(alike, lambda: found, lambda: total(own)), alike


def _total_here(parts):
    """Returns the sum of all replicas' numbers, `None` if not all are in this process."""
    ints = all(isinstance(part, int) for part in parts)
    if ints and len(set(parts)) == 1:
        return parts[0] * in_sync()
    if len(parts) < in_sync():
        return None
    with tf.device("CPU:0"):
        return sum(parts) if ints else tf.add_n([tf.cast(part, tf.int32) for part in parts])


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
    if _number() == 1:
        return 0
    context = tf.distribute.get_replica_context()
    return int(tf.get_static_value(context.replica_id_in_sync_group))


def assign_around():
    """Returns whether only branches around all replicas can assign variables, as they do to
    meet. It may be so with one replica, too. What replicas keep apart needs none."""
    return not _apart.value and must_assign_around()


def cond(condition, true_fn, false_fn, assigns=False):
    """Does what `tf.cond` does, with branches in which replicas may meet.

    Args:
        condition: boolean tensor, the same on every replica.
        true_fn, false_fn: functions that return nests of tensors of the same structure.
        assigns: whether they assign variables. Defaults to `False`.
    """
    if in_sync() == 1 and not (assigns and assign_around()):
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
