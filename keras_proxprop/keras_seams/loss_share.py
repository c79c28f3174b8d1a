"""Weighs a replica's loss by its share of the rows of the global batch.

Keras divides every replica's mean loss by the number of replicas. Where the last batch does
not divide evenly, the sum of these is not the mean over the batch.
"""

import contextlib

import tensorflow as tf
from keras.src.losses import loss as of_keras

from keras_proxprop import replicas
from keras_proxprop.in_thread import InThread

# `None` where losses are not weighed.
_share = InThread(None)


@contextlib.contextmanager
def shared_by_rows(count, known, rows):
    """Context in which this replica's losses are weighed by its number of items.

    Args:
        count: number of items on the replica, an int, or a scalar tensor.
        known: what `replicas.items_here` returned of it.
        rows: as in `replicas.total_items`.

    Yields:
        The number of items in the whole batch, and `None` where `known` is that number, else
        what `replicas.total_items` returned with it; `None` with one replica.
    """
    batch = share = None
    if replicas.in_sync() > 1:
        batch = replicas.total_items(count, rows) if known is None else (known, None)
        share = tf.cast(count, tf.float32) / tf.cast(batch[0], tf.float32)
    with _share.set(share):
        yield batch


def unscaled(loss):
    """Returns the loss of a replica as if there were no other replicas."""
    return of_keras.unscale_loss_for_distribution(loss)


def install():
    """Has Keras use the share of the rows; a second call changes nothing."""
    if hasattr(of_keras.scale_loss_for_distribution, "_proxprop"):
        return
    scale = of_keras.scale_loss_for_distribution
    unscale = of_keras.unscale_loss_for_distribution

    def scaled(value):
        share = _share.value
        return scale(value) if share is None else value * tf.cast(share, value.dtype)

    def unscaled(value):
        share = _share.value
        if share is None:
            return unscale(value)
        return tf.math.divide_no_nan(value, tf.cast(share, value.dtype))

    scaled._proxprop = True
    of_keras.scale_loss_for_distribution = scaled
    of_keras.unscale_loss_for_distribution = unscaled
