"""Solving with a Gram matrix that may be singular to working precision."""

import tensorflow as tf

# A factor is trusted while its smallest pivot, of a matrix with unit diagonal, is so far
# above the rounding errors of a Gram matrix in that dtype.
_SMALLEST_PIVOT = {tf.float32: 1e-4, tf.float64: 1e-12}
# Added to the unit diagonal where float64 does not suffice either.
_DAMPING = 1e-9


def solve_shifted(gram, shift, right):
    """Returns `(G + shift I)⁻¹ right`; never raises, and finite for finite input.

    The matrix is scaled to unit diagonal and factorized in the dtype of `right`. Where
    its smallest pivot shows that float32 has lost it, the Gram matrix is made again and
    factorized in float64; where that is not enough, its diagonal is raised by 1e-9 of
    itself.

    Args:
        gram: function of a dtype that returns the symmetric positive semidefinite `G`.
        shift: positive scalar tensor.
        right: `[n, columns]`.
    """
    factor, trusted = _factorize(gram(right.dtype), shift)
    return tf.cond(
        trusted,
        lambda: _substitute(factor, right),
        lambda: _solve_in_float64(gram, shift, right),
    )


def _factorize(gram, shift, damping=0.0):
    """Returns the Cholesky factor of `gram + shift I` and whether it can be trusted."""
    diagonal = tf.linalg.diag_part(gram) + shift
    scale = tf.math.rsqrt(diagonal)
    unit = gram * scale[:, None] * scale[None, :]
    unit = tf.linalg.set_diag(unit, tf.ones_like(diagonal) * (1 + damping))
    factor = tf.linalg.cholesky(unit)
    pivot = tf.reduce_min(tf.linalg.diag_part(factor)) ** 2
    # A failed factorization is NaN, for which this is false.
    trusted = pivot > _SMALLEST_PIVOT[gram.dtype]
    return factor / scale[:, None], trusted


def _substitute(factor, right):
    """Returns `(L Lᵀ)⁻¹ right`."""
    n, columns = factor.shape[0], right.shape[-1]
    if columns <= (_FEW if n is None else n):
        return tf.linalg.cholesky_solve(factor, right)
    # Triangular kernels run on one core, products on all.
    identity = tf.eye(tf.shape(factor)[0], dtype=factor.dtype)
    return tf.matmul(tf.linalg.cholesky_solve(factor, identity), right)


# For a matrix of unknown size: up to so many columns are solved for one by one.
_FEW = 256


def _solve_in_float64(gram, shift, right):
    matrix = gram(tf.float64)
    shift = tf.cast(shift, tf.float64)
    factor, trusted = _factorize(matrix, shift)
    factor = tf.cond(trusted, lambda: factor, lambda: _factorize(matrix, shift, _DAMPING)[0])
    return tf.cast(_substitute(factor, tf.cast(right, tf.float64)), right.dtype)
