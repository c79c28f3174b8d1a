"""What a step costs, counted in multiply-adds of a matrix product.

Row counts are numbers, or scalar tensors where the batch size is unknown at trace
time: then the choice is made at run time, by the same count. Under XLA shapes are known
when it compiles, and only the chosen form is compiled.
"""

import tensorflow as tf

from keras_proxprop.blocks.rows import as_number

# Measured on two cores against a matrix product's multiply-adds: a Cholesky kernel takes
# 3.5 times as long for each of its n³/3, a triangular solve 3 times for each of n² per
# column, twice.
_FACTORIZE = 1.2
_SUBSTITUTE = 6


def backpropagation(rows, columns):
    """Returns the multiply-adds of one layer's forward pass and two gradients."""
    return 3 * as_number(rows.count) * rows.features * columns


def exact(rows, columns):
    """Returns `{form: cost}` of the exact step beyond the layer's backpropagation."""
    count, features = as_number(rows.count), rows.features
    outer = rows.matrix_cost() + count**2 * features
    return {
        "primal": rows.gram_cost() + _solve(features, columns),
        "dual": outer + _solve(count, min(columns, features)),
    }


def _solve(n, columns):
    return _FACTORIZE * n**3 + _minimum(
        _SUBSTITUTE * n**2 * columns, _SUBSTITUTE * n**3 + n**2 * columns
    )


def _minimum(a, b):
    return tf.minimum(a, b) if tf.is_tensor(a) else min(a, b)


def cheapest(costs, branches):
    """Runs the branch with the lowest cost; `costs` and `branches` have the same keys."""
    names = list(costs)
    values = [costs[name] for name in names]
    if not any(tf.is_tensor(value) for value in values):
        return branches[min(names, key=costs.get)]()
    index = tf.argmin(tf.stack([tf.cast(v, tf.float32) for v in values]), output_type=tf.int32)
    return tf.switch_case(index, [branches[name] for name in names])
