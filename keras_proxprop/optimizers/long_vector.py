"""Tensors that belong to several variables, as one long vector."""

import numpy as np
import tensorflow as tf


def joined(tensors, dtype):
    """Returns the entries of all tensors, one after another."""
    tensors = [tf.cast(tf.convert_to_tensor(tensor), dtype) for tensor in tensors]
    return tf.concat(_in_shape(tensors, [(-1,)] * len(tensors)), 0)


def parted(vector, variables):
    """Returns the tensors of which `vector` is joined, in the shapes of their variables."""
    parts = tf.split(vector, _counts(variables))
    return _in_shape(parts, [tuple(variable.shape) for variable in variables])


def _in_shape(tensors, shapes):
    # One constant for every shape, and no operation for vectors: there are many tensors.
    made = {shape: tf.constant(shape, tf.int32) for shape in dict.fromkeys(shapes)}
    return [
        tensor if len(tensor.shape) == len(shape) else tf.reshape(tensor, made[shape])
        for tensor, shape in zip(tensors, shapes)
    ]


def of_entries(numbers, variables):
    """Returns a vector in which every entry of a variable has that variable's number."""
    counts = _counts(variables)
    return tf.gather(numbers, np.repeat(np.arange(len(counts)), counts))


def root_mean_squares(vector, variables):
    """Returns the root of the mean square over every variable's entries, a float32 vector."""
    counts = _counts(variables)
    halves = [tf.nn.l2_loss(part) for part in tf.split(tf.cast(vector, tf.float32), counts)]
    return tf.sqrt(tf.stack(halves) * (2 / np.maximum(counts, 1)))


def _counts(variables):
    return [variable.shape.num_elements() for variable in variables]
