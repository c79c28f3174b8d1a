"""Shapes: runs of columns, borders of ones, sizes that may be unknown."""

import math

import tensorflow as tf


def border(gram, sums, count):
    """Returns a Gram matrix, or a stack, with the row and column of the bias's ones added."""
    top = tf.concat([gram, tf.linalg.matrix_transpose(sums)], axis=-1)
    corner = tf.fill([*gram.shape[:-2], 1, 1], count)
    return tf.concat([top, tf.concat([sums, corner], axis=-1)], axis=-2)


def diagonals(matrices):
    """Returns the diagonals of a matrix, or of a stack: `tf.linalg` would make constants, too,
    that say which."""
    return tf.raw_ops.MatrixDiagPart(input=matrices)


def in_runs(matrix, count):
    """Returns `[n, columns]` as `[count, n, columns of one run]`."""
    parts = tf.reshape(matrix, [-1, count, matrix.shape[-1] // count])
    return tf.transpose(parts, [1, 0, 2])


def joined(parts, count):
    """Undoes `in_runs`."""
    return tf.reshape(tf.transpose(parts, [1, 0, 2]), [-1, count * parts.shape[-1]])


def size(tensor, axis):
    """Returns the size of an axis: an int where it is static, else a scalar tensor."""
    static = tensor.shape[axis]
    if static is not None:
        return static
    shape = tf.shape(tensor)
    # An index would make three constants more. (The shape of a ragged tensor is none.)
    return (tf.unstack(shape) if isinstance(shape, tf.Tensor) else shape)[axis]


def key_of_size(length):
    """Returns a key of a size, which is an int or a scalar tensor: tensors cannot be compared
    before they have values."""
    return id(length) if tf.is_tensor(length) else length


def sizes_to_keep(tensor):
    """Returns the sizes of all axes, for `tf.reshape`: one that is unknown is -1, and several
    are scalar tensors."""
    static = tensor.shape.as_list()
    if static.count(None) < 2:
        return [-1 if length is None else length for length in static]
    actual = tf.unstack(tf.shape(tensor))
    return [a if length is None else length for a, length in zip(actual, static)]


def times(length, factor):
    """Returns what one of `sizes_to_keep` is where it grows by an integer factor."""
    return length if isinstance(length, int) and length < 0 else length * factor


def nominal_product(lengths):
    """Returns the product of static lengths, of which those that are unknown count as one."""
    return math.prod(length or 1 for length in lengths)


def working_dtype(dtype):
    """Returns the dtype for Gram matrices and solves: at least float32."""
    return dtype if dtype == tf.float64 else tf.float32


def pad(x, dim, before, after):
    """Returns `x` with zeros before and after it along one axis."""
    if isinstance(before, int) and isinstance(after, int) and before == after == 0:
        return x
    paddings = [[0, 0]] * dim + [[before, after]] + [[0, 0]] * (len(x.shape) - dim - 1)
    return tf.pad(x, paddings)
