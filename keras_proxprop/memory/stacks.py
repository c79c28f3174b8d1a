"""Small matrices of one shape are one stack: few operations instead of as many as layers."""

import tensorflow as tf

# Entries of a matrix that is put in a stack, at most: of larger ones the copies would weigh
# more than the operations that are saved.
_LARGEST = 2**18


def in_stacks(function, matrices):
    """Calls `function` with stacks of matrices that are of one shape, and of what goes with
    them.

    Args:
        function: is called with what `matrices` has, stacked; returns stacks.
        matrices: of every matrix a tuple of tensors: first the matrix, `[n, n]` or
            `[groups, n, n]`, then others of its shape or scalars.

    Returns:
        Of every matrix a tuple of what was returned for it.
    """
    alike = {}
    for i, (matrix, *_) in enumerate(matrices):
        alone = matrix.shape.num_elements() > _LARGEST
        alike.setdefault((*matrix.shape, matrix.dtype, i if alone else None), []).append(i)
    found = {}
    for own in alike.values():
        first = matrices[own[0]][0]
        stacked = [tf.stack(part) for part in zip(*(matrices[i] for i in own))]
        parts = [tf.unstack(result, len(own)) for result in function(*stacked)]
        for i, *each in zip(own, *parts):
            for part in each:
                if len(part.shape) > 1:
                    part.set_shape(first.shape)
            found[i] = tuple(each)
    return [found[i] for i in range(len(matrices))]


def per_matrix(values, stack):
    """Returns a value a matrix, or one for all, so that they broadcast to a stack of such."""
    return tf.reshape(values, [-1] + [1] * (len(stack.shape) - 1))


def axes_of_each(stack):
    """Returns the axes of a stack but the first: those over which each is reduced alone."""
    return list(range(1, len(stack.shape)))
