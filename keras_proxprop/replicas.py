"""The replicas of a `tf.distribute` strategy, as the code in one of them sees them."""

import tensorflow as tf


def in_sync():
    """Returns how many replicas make the step together: 1 outside of a strategy."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def total(value):
    """Returns the sum of a tensor over all replicas."""
    if in_sync() == 1:
        return value
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)
