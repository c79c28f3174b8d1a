"""The inverse of a Cholesky factor, nearly all of it in matrix products."""

import tensorflow as tf

from keras_proxprop import machine, tf32, xla
from keras_proxprop.rows.arrays import diagonals, size

# Pivots of a matrix with unit diagonal. Below the first, float32 has lost more than a
# thousandth of the solution; below the second, float64 may have.
_SMALLEST_PIVOT = {tf.float32: 2e-4, tf.float64: 1e-11}
# A CPU's triangular kernels use one core: halving a matrix twice leaves nearly all the
# work to matrix products. Parts that are no larger than this are factorized whole. On a GPU
# a matrix is not halved: each half costs launches of its own.
_LEAF = 64
_HALVINGS = 2
# Where it is known that no matrix has more rows than this, none is halved: that would save a
# tenth to a quarter of its time, on one core and on two, and costs operations to trace.
_WHOLE = 512


def inverse_factor(gram, shift, damping, large=True, most=None):
    """Returns `W` with `WᵀW = (gram + shift I)⁻¹`, and whether it can be trusted.

    Args:
        gram: symmetric positive definite matrix, `[..., n, n]`.
        shift: is added to the diagonal, broadcast to `[..., n]`.
        damping: likewise, after the matrix was scaled to unit diagonal.
        large: whether the matrix may be so large that it is halved: a Python bool.
        most: how much a factor that can be trusted amplifies rounding errors at most, of the
            matrix scaled to unit diagonal: the inverse of its smallest pivot, times √n, since
            n errors add up in every entry. Defaults to `None`: those of a whole solve.
    """
    diagonal = diagonals(gram) + shift
    scale = tf.math.rsqrt(diagonal)
    along = tf.expand_dims(scale, -2)
    unit = gram * tf.expand_dims(scale, -1) * along
    ones = tf.ones_like(diagonal) + damping
    unit = tf.raw_ops.MatrixSetDiag(input=unit, diagonal=ones)
    inverse = inverse_cholesky(unit, large)
    pivots_inverted = diagonals(inverse) ** 2
    # A failed factorization is NaN, for which this is false.
    if most is None:
        trusted = has_trusted_pivots(pivots_inverted)
    else:
        n = tf.cast(size(gram, -1), gram.dtype)
        trusted = pivots_inverted < most * tf.math.rsqrt(n)
    return inverse * along, tf.reduce_all(trusted)


def has_trusted_pivots(inverted):
    """Returns for which inverted pivots of a matrix with unit diagonal a solve is trusted."""
    return inverted < 1 / _SMALLEST_PIVOT[inverted.dtype]


def is_large(n):
    """Returns whether it pays to halve an `n × n` matrix that is rarely factorized."""
    return n > _WHOLE and machine.in_force() is not machine.GPU


def inverse_cholesky(matrix, large=True):
    """Returns the inverse of the Cholesky factor; `large` is as in `inverse_factor`."""
    if not large or machine.in_force() is machine.GPU:
        return _whole(matrix)
    large = tf.convert_to_tensor(size(matrix, -1)) > _LEAF
    return tf.cond(large, lambda: _by_halves(matrix, _HALVINGS), lambda: _whole(matrix))


def _whole(matrix):
    if xla.for_cpu():
        return xla.inverse_cholesky(matrix)
    # As a constant the identity would be made and kept for every branch, taken or not: 100 MiB
    # for a net of three wide layers.
    identity = tf.raw_ops.MatrixDiag(diagonal=tf.ones_like(diagonals(matrix)))
    return tf.linalg.triangular_solve(tf.linalg.cholesky(matrix), identity)


@xla.traced_once
def _by_halves(matrix, times):
    sizes = _halves(matrix)
    left, right = tf.split(matrix, sizes, axis=-1, num=2)
    upper, below = tf.split(left, sizes, axis=-2, num=2)
    first = _half(upper, times - 1)
    below = tf32.matmul(below, first, transpose_b=True)
    above, schur = tf.split(right, sizes, axis=-2, num=2)
    second = _half(schur - tf32.with_itself(below, transpose_b=True), times - 1)
    corner = -tf32.matmul(second, tf32.matmul(below, first))
    columns = [first, corner], [tf.zeros_like(above), second]
    columns = [tf.concat(column, axis=-2) for column in columns]
    return tf.concat(columns, axis=-1)


def _halves(matrix):
    n = size(matrix, -1)
    return tf.stack([n // 2, (n + 1) // 2])


def _half(matrix, times):
    return _by_halves(matrix, times) if times else _whole(matrix)


def times_itself(factor, large=True):
    """Returns `WᵀW` of the inverse factor `W`; `large` is as in `inverse_factor`."""
    return _by_blocks(factor) if large else tf32.with_itself(factor, transpose_a=True)


@xla.traced_once
def _by_blocks(factor):
    # Half the work: a quarter of the factor is zero, and the product is symmetric.
    sizes = _halves(factor)
    left, right = tf.split(factor, sizes, axis=-1, num=2)
    first, below = tf.split(left, sizes, axis=-2, num=2)
    _, second = tf.split(right, sizes, axis=-2, num=2)
    upper = tf.add_n([tf32.with_itself(part, transpose_a=True) for part in (first, below)])
    lower = tf32.with_itself(second, transpose_a=True)
    corner = tf32.matmul(second, below, transpose_a=True)
    rows = [upper, tf.linalg.matrix_transpose(corner)], [corner, lower]
    return tf.concat([tf.concat(row, axis=-1) for row in rows], axis=-2)
