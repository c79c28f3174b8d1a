"""Parts of a variable that belong to different problems."""

import numpy as np
import tensorflow as tf

from keras_proxprop.keras_seams.layers import native


class WeightSlice:
    """A block of the entries of a variable, as a weight of its own.

    Args:
        variable: `keras.Variable`.
        index: a slice per axis of the variable.
        name: name of the slice, another for every slice of a variable.
    """

    def __init__(self, variable, index, name):
        self.variable = variable
        self.path = f"{variable.path}/{name}"
        self._index = index
        self.shape = np.broadcast_to(0, variable.shape)[index].shape

    @property
    def dtype(self):
        return self.variable.dtype

    @property
    def trainable(self):
        return self.variable.trainable

    def read(self, value):
        """Returns the slice of a value of the variable."""
        return tf.convert_to_tensor(value)[self._index]

    def write(self, part, value=None):
        """Returns `value` (or zeros) with its slice replaced by `part`."""
        bounds = [s.indices(n)[:2] for s, n in zip(self._index, self.variable.shape)]
        pads = [(low, n - high) for (low, high), n in zip(bounds, self.variable.shape)]
        padded = tf.pad(part, pads)
        if value is None:
            return padded
        inside = tf.pad(tf.ones(self.shape, tf.bool), pads)
        return tf.where(inside, padded, tf.cast(tf.convert_to_tensor(value), part.dtype))


def variable_of(weight):
    """Returns the variable of a weight: the weight itself, or what it is a slice of."""
    return weight.variable if isinstance(weight, WeightSlice) else weight


def weight_key(weight):
    """Returns a key that is equal for equal weights, whatever block names them."""
    if isinstance(weight, WeightSlice):
        return id(weight.variable), weight.path
    return id(weight)


def variable_key(weight):
    """Returns a key that is equal for all weights, and slices, of one variable."""
    return id(native(variable_of(weight)))
