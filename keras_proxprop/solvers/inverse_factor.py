"""The inverse of a Cholesky factor, nearly all of it in matrix products."""

import math

import tensorflow as tf

from keras_proxprop import machine, tf32, xla

# Pivots of a matrix with unit diagonal. Below the first, float32 has lost more than a
# thousandth of the solution; below the second, float64 may have.
_SMALLEST_PIVOT = {tf.float32: 2e-4, tf.float64: 1e-11}
# A CPU's triangular kernels use one core: halving a matrix three times leaves nearly all the
# work to matrix products. Parts that are no larger than this are factorized whole. On a GPU
# a matrix is not halved: each half costs launches of its own.
_LEAF = 64
_HALVINGS = 3


def inverse_factor(gram, shift, damping, times=None, most=None):
    """Returns `W` with `WᵀW = (gram + shift I)⁻¹`, and whether it can be trusted.

    Args:
        gram: symmetric positive definite matrix, `[..., n, n]`.
        shift: is added to the diagonal, broadcast to `[..., n]`.
        damping: likewise, after the matrix was scaled to unit diagonal.
        times: how often the matrix is halved: see `halvings`. Defaults to `None`: as its size
            says when it runs.
        most: the largest condition number at which the factor can be trusted, of the matrix
            scaled to unit diagonal, as its rows' sums and pivots bound it. Defaults to `None`:
            the pivots alone decide.
    """
    diagonal = tf.linalg.diag_part(gram) + shift
    scale = tf.math.rsqrt(diagonal)
    unit = gram * scale[..., :, None] * scale[..., None, :]
    unit = tf.linalg.set_diag(unit, tf.ones_like(diagonal) + damping)
    inverse = inverse_cholesky(unit, times)
    pivots_inverted = tf.linalg.diag_part(inverse) ** 2
    # A failed factorization is NaN, for which this is false.
    if most is None:
        trusted = has_trusted_pivots(pivots_inverted)
    else:
        sums = tf.reduce_sum(tf.abs(unit), axis=-1)
        trusted = pivots_inverted * tf.reduce_max(sums, axis=-1, keepdims=True) < most
    return inverse * scale[..., None, :], tf.reduce_all(trusted)


def has_trusted_pivots(inverted):
    """Returns for which inverted pivots of a matrix with unit diagonal a solve is trusted."""
    return inverted < 1 / _SMALLEST_PIVOT[inverted.dtype]


def halvings(n):
    """Returns how often an `n × n` matrix is halved before its parts are factorized."""
    if machine.in_force() is machine.GPU:
        return 0
    return min(_HALVINGS, max(0, math.ceil(math.log2(n / _LEAF))))


def inverse_cholesky(matrix, times):
    """Returns the inverse of the Cholesky factor."""
    if times is None and machine.in_force() is machine.GPU:
        times = 0
    if times is None:
        large = tf.shape(matrix)[-1] > _LEAF
        return tf.cond(large, lambda: _shared(matrix, _HALVINGS), lambda: _whole(matrix))
    return _by_halves(matrix, times, inverse_cholesky) if times else _whole(matrix)


@xla.traced_once
def _shared(matrix, times):
    return _by_halves(matrix, times, _shared if times > 1 else inverse_cholesky)


def _whole(matrix):
    # As a constant the identity would be made and kept for every branch, taken or not: 100 MiB
    # for a net of three wide layers.
    identity = tf.linalg.diag(tf.ones_like(tf.linalg.diag_part(matrix)))
    return tf.linalg.triangular_solve(tf.linalg.cholesky(matrix), identity)


def _by_halves(matrix, times, of_half):
    n = tf.shape(matrix)[-1]
    half = n // 2
    sizes = tf.stack([half, n - half])
    left, right = tf.split(matrix, sizes, axis=-1, num=2)
    upper, below = tf.split(left, sizes, axis=-2, num=2)
    first = of_half(upper, times - 1)
    below = tf32.matmul(below, first, transpose_b=True)
    above, schur = tf.split(right, sizes, axis=-2, num=2)
    second = of_half(schur - tf32.with_itself(below, transpose_b=True), times - 1)
    corner = -tf32.matmul(second, tf32.matmul(below, first))
    columns = [first, corner], [tf.zeros_like(above), second]
    columns = [tf.concat(column, axis=-2) for column in columns]
    return tf.concat(columns, axis=-1)
