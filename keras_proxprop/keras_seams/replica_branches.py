"""Branches of a graph in which the replicas of a strategy may meet."""

import tensorflow as tf


def cond_around_replicas(condition, true_fn, false_fn):
    """Does what `tf.cond` does, but once around the branches of all replicas.

    Some strategies do not allow replicas to meet inside of a `tf.cond` of their own. So one
    `tf.cond` goes around all replicas, as in Keras's `LossScaleOptimizer`.

    Args:
        condition: boolean tensor, the same on every replica.
        true_fn, false_fn: functions that return nests of tensors of the same structure.
    """
    if tf.__internal__.distribute.strategy_supports_no_merge_call():
        return tf.cond(condition, true_fn, false_fn)
    branches = _Branches(true_fn, false_fn)
    tf.distribute.get_replica_context().merge_call(_around, args=(condition, branches))
    return branches.result


def must_assign_around():
    """Returns whether a replica can assign variables of its strategy only in branches that go
    around all replicas, as that of a `MirroredStrategy` with one device."""
    distribute = tf.distribute
    if not distribute.has_strategy() or distribute.in_cross_replica_context():
        return False
    if isinstance(distribute.get_strategy(), distribute.OneDeviceStrategy):
        return False
    return not tf.__internal__.distribute.strategy_supports_no_merge_call()


def of_all_here(values):
    """Returns for every value a tuple: those of all replicas of this process, each of which
    has to call this. Where replicas cannot meet the tuple holds this replica's own only."""
    if tf.__internal__.distribute.strategy_supports_no_merge_call():
        return [(value,) for value in values]

    def merged(strategy, values):
        number = len(strategy.extended.worker_devices)
        found = map(strategy.experimental_local_results, values)
        # One value may be the same for all replicas.
        return [tuple(parts) * (number // len(parts)) for parts in found]

    return tf.distribute.get_replica_context().merge_call(merged, args=(values,))


class _Branches:
    """What one replica does in the branches, and the results."""

    def __init__(self, true_fn, false_fn):
        self._functions = {True: true_fn, False: false_fn}
        self._structure = self.result = None

    def run(self, which):
        result = self._functions[which]()
        self._structure = result
        return tf.nest.flatten(result)

    def end_with(self, tensors):
        self.result = tf.nest.pack_sequence_as(self._structure, tensors)


def _around(strategy, condition, branches):
    own = strategy.experimental_local_results(branches)

    def branch(which):
        found = strategy.extended.call_for_each_replica(_Branches.run, (branches, which))
        found = map(strategy.experimental_local_results, found)
        # One tensor may be the same for all replicas.
        found = [parts * (len(own) // len(parts)) for parts in found]
        return [list(parts) for parts in zip(*found)]

    condition = strategy.experimental_local_results(condition)[0]
    results = tf.cond(condition, lambda: branch(True), lambda: branch(False))
    for each, result in zip(own, results):
        each.end_with(result)
