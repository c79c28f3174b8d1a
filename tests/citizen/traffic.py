"""Counts the bytes that replicas hand over to be sent, where a step runs."""

import keras
import tensorflow as tf

_sent = []


def _note(values):
    for value in tf.nest.flatten(values, expand_composites=True):
        size = tf.size(value) * value.dtype.size
        tf.numpy_function(lambda size: _sent.append(int(size)), [size], [])


def _counted(send):
    def send_and_note(self, *args, **kwargs):
        # `all_reduce` takes the kind of the reduction first.
        _note(next(arg for arg in args if not isinstance(arg, tf.distribute.ReduceOp)))
        return send(self, *args, **kwargs)

    return send_and_note


def _counted_reduce(reduce):
    """Counts what Keras's `fit` of several workers sends for its logs."""

    def reduce_and_note(self, reduce_op, value, axis):
        _note(self.experimental_local_results(value))
        return reduce(self, reduce_op, value, axis)

    return reduce_and_note


def count_from_now_on():
    """Has every step that is traced from now on note what it sends."""
    context, strategy = tf.distribute.ReplicaContext, tf.distribute.Strategy
    context.all_reduce = _counted(context.all_reduce)
    context.all_gather = _counted(context.all_gather)
    strategy.reduce = _counted_reduce(strategy.reduce)


def sent():
    """Returns the bytes that were sent since the last call."""
    total = sum(_sent)
    _sent.clear()
    return total


class Count(keras.callbacks.Callback):
    """Has the bytes that a replica sends in every step, in `bytes`.

    Args:
        here: the number of replicas in this process.
    """

    def __init__(self, here):
        super().__init__()
        self._here = here

    def on_train_begin(self, logs=None):
        self.bytes = []

    def on_train_batch_begin(self, batch, logs=None):
        sent()

    def on_train_batch_end(self, batch, logs=None):
        self.bytes.append(sent() // self._here)
