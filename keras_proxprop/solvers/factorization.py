"""Solving with a Gram matrix that may be singular to working precision."""

import math

import tensorflow as tf

from keras_proxprop import machine, replicas, tf32, xla
from keras_proxprop.rows.arrays import diagonals, size
from keras_proxprop.solvers.inverse_factor import (
    has_trusted_pivots,
    inverse_factor,
    times_itself,
)

# By how much a float32 inverse may differ from the rows, in the direction it amplifies most.
_TOLERANCE = 5e-4
# Power iterations that look for that direction, and how many they start from. (For a
# product with a single column XLA on CPU compiles code of its own, each time.)
_ITERATIONS = 2
_PROBES = 4
# How much a refinement may change the direction: what is left of the error after it is about
# the square of this. And how much the inverse may amplify then: products with a million rows
# lose a few ten-millionths, too.
_REFINABLE = 0.02
_REFINABLE_AMPLIFICATION = 2500
# Added to the unit diagonal where float64 does not suffice either.
_DAMPING = 1e-8
# The diagonal of an averaged Gram matrix is raised by this part of itself, and by ten times
# as much, and so on, where rounding has left it indefinite all the same.
_FLOOR = 1e-5
_FLOORS = 4
# An inverse that amplifies rounding errors no more than this is made in float32. With the
# default τ that changes the direction of a batch by a ten-thousandth at most: measured for 200
# to 2,000 features of five kinds. A Newton step makes directions worse, not better.
_IN_FLOAT32 = 5e3


_shared_inverse_factor = xla.traced_once(inverse_factor)


def solution(form, direction):
    """Returns the direction of a form of the exact step, and whether it is damped.

    The matrix is scaled to unit diagonal and factorized in its own dtype. Unless the shift
    alone bounds what the inverse amplifies, the inverse is compared with the rows in the
    direction that it amplifies most. Where they differ, the direction is refined: the
    equation's residual, made from the rows and not from the Gram matrix, is solved for once
    more. Where a small pivot or a large refinement shows that float32 has lost it, the Gram
    matrix is made again and factorized in float64; where that is not enough either, the
    diagonal is raised by 1e-8 of itself. What is not finite stays so, as loss scaling needs.

    Args:
        form: an object with
            gram: symmetric positive semidefinite `G`, `[n, n]`, or a stack of such.
            shift: 1/τ, a positive scalar tensor.
            energy: function of `x`, `[n, columns]` or a stack of such, that returns `xᵀ G x`
                of every column, from products with the rows.
            rounding: by what part of its diagonal `gram` may be off.
            in_float64: function that returns `G` in float64 and, to be used with that, a
                `direction` that returns tensors of the dtype of `gram`.
            refined: function of `inverse` and a direction that returns a better one, or
                `None`.
            keeps: function of a direction that returns whether float32 keeps it, a boolean
                tensor, where the form adds what cancels; or `None`.
            otherwise: function of `W`, where `WᵀW` is the inverse, and of the direction
                made with it, that returns what `checked` returns.
        direction: function of `inverse`, `inverse(x) = (G + shift I)⁻¹ x`, that returns a
            list of tensors.
    """
    factor, trusted = _shared_inverse_factor(form.gram, form.shift, 0.0)
    factor.set_shape(form.gram.shape)
    p = direction(lambda x: _apply(factor, x))
    if form.gram.dtype == tf.float32:
        most = tf.constant(_unchecked(form))
        trusted = _trusted(factor, form.gram, form.shift, most)
        if form.keeps is not None:
            trusted &= form.keeps(p)
    return replicas.cond(
        replicas.every(trusted),
        lambda: (p, tf.constant(False)),
        lambda: form.otherwise(factor, p),
    )


def _unchecked(form):
    # Where the inverse amplifies less than this, rounding is harmless. No eigenvalue of the
    # matrix is below the shift.
    return _TOLERANCE / form.rounding


def checked(form, factor, p):
    """Returns the direction of a form, and whether it is damped, where the shift alone does
    not bound what `WᵀW` amplifies.

    Args:
        form: as in `solution`.
        factor: `W`.
        p: the direction that was made with it.
    """
    undamped = p, tf.constant(False)

    def in_float64():
        return _in_float64(*form.in_float64(), form.shift)

    if form.gram.dtype == tf.float64:
        return in_float64()
    amplification, alike = _compared_with_rows(factor, _unchecked(form), form)

    def refined():
        better = form.refined(lambda x: _apply(factor, x), p)
        change = square([b - a for a, b in zip(p, better)])
        enough = change <= _REFINABLE**2 * square(better)
        enough &= amplification <= _REFINABLE_AMPLIFICATION
        return tf.cond(enough, lambda: (better, tf.constant(False)), in_float64)

    untrusted = refined if form.refined else in_float64
    alike &= _trusted(factor, form.gram, form.shift, tf.constant(math.inf))
    if form.keeps is not None:
        alike &= form.keeps(p)
    return replicas.cond(replicas.every(alike), lambda: undamped, untrusted)


def square(parts):
    """Returns half the square of a direction's length."""
    return tf.add_n([tf.nn.l2_loss(part) for part in parts])


@xla.traced_once
def _trusted(factor, gram, shift, most):
    """Returns whether `W`'s pivots can be trusted and the diagonal of `G + shift I` is at most
    `most` times the shift: one reduction, where two would be kernels of their own."""
    diagonal = diagonals(gram) + shift
    trusted = has_trusted_pivots(diagonals(factor) ** 2 * diagonal)
    return tf.reduce_all(trusted & (diagonal <= most * shift))


def _compared_with_rows(factor, unchecked, form):
    """Returns how much `WᵀW` amplifies, with the diagonal of `G + shift I` scaled to one, and
    whether it agrees with the rows where it amplifies most, and rounding does most."""
    diagonal = diagonals(form.gram) + form.shift
    y, expected = _most_amplified(factor, diagonal)

    def agrees():
        found = tf.reshape(form.energy(y), tf.shape(expected))
        found += form.shift * tf.reduce_sum(y**2, axis=-2)
        return tf.reduce_all(tf.abs(expected - found) <= _TOLERANCE * found)

    amplification = tf.reduce_max(expected)
    harmless = replicas.every(amplification <= unchecked)
    return amplification, replicas.cond(harmless, lambda: tf.constant(True), agrees)


@xla.traced_once
def _most_amplified(factor, diagonal):
    """Returns `y = WᵀW x` of directions `x` that it amplifies most, and `yᵀ (WᵀW)⁻¹ y`.

    The diagonal of the matrix is scaled to one, so that the latter is an eigenvalue of `WᵀW`.
    """
    scaled = factor * tf.expand_dims(tf.sqrt(diagonal), -2)
    # The column that is amplified most, and some that have a part in every direction.
    lengths = tf.reduce_sum(scaled**2, axis=-2)
    largest = tf.cast(lengths == tf.reduce_max(lengths, -1, keepdims=True), factor.dtype)
    index = tf.expand_dims(tf.range(size(factor, -1), dtype=factor.dtype), 1)
    others = tf.sin((index + 1) ** 2 * tf.range(1, _PROBES, dtype=factor.dtype))
    largest = tf.expand_dims(largest, -1)
    x = tf.concat([largest, others + tf.zeros_like(largest)], axis=-1)
    for _ in range(_ITERATIONS):
        x = _apply(scaled, x)
        x /= tf.norm(x, axis=-2, keepdims=True)
    z = tf32.matmul(scaled, x)
    return tf32.matmul(factor, z, transpose_a=True), tf.reduce_sum(z**2, axis=-2)


def floored_inverse(gram, shift, large):
    """Returns `(G + shift I)⁻¹` of every matrix of a stack, with the diagonal of `G` a little
    raised, and which of them needed more than that, `[...]`. Small ones are made in float64,
    which on a CPU takes no longer; others only where float32 does not suffice.

    Args:
        gram: symmetric `G`, `[..., n, n]`, positive semidefinite up to rounding.
        shift: positive tensor, broadcast to `[..., n]`.
        large: as in `inverse_factor`.
    """
    if gram.dtype == tf.float64 or not (large or machine.in_force() is machine.GPU):
        return _floored_in_float64(gram, shift, large)
    factor, trusted = inverse_factor(gram, shift, _FLOOR, large, _IN_FLOAT32)
    inverse = times_itself(factor, large)
    return tf.cond(
        trusted,
        lambda: (inverse, tf.fill(tf.shape(gram)[:-2], False)),
        lambda: _called_in_float64(gram, shift, large),
    )


def _floored_in_float64(gram, shift, large):
    gram64, shift64 = tf.cast(gram, tf.float64), tf.cast(shift, tf.float64)

    def attempt(floor, _, tries, __):
        factor, _ = _shared_inverse_factor(gram64, shift64, tf.expand_dims(floor, -1), large)
        finite = tf.reduce_all(tf.math.is_finite(factor), [-2, -1], keepdims=True)
        factor = tf.where(finite, factor, 0.0)
        finite = tf.squeeze(finite, [-2, -1])
        # What is finite is made again as it is.
        floor = tf.where(finite, floor, 10 * floor)
        return floor, factor, tries + 1, tf.reduce_all(finite)

    floor = tf.zeros_like(gram64[..., 0, 0]) + _FLOOR
    raised, factor, _, _ = tf.while_loop(
        lambda floor, _, tries, done: ~done & (tries < _FLOORS),
        attempt,
        (floor, tf.zeros_like(gram64), 0, tf.constant(False)),
    )
    return tf.cast(times_itself(factor, large), gram.dtype), raised > floor


# Prepared only when it runs.
_called_in_float64 = xla.traced_once(_floored_in_float64)


def _in_float64(gram, direction, shift):
    # As a stack, since the factorization of memory's stacks is the same function.
    stack = gram if gram.shape.rank == 3 else tf.expand_dims(gram, 0)
    shift = tf.reshape(tf.cast(shift, tf.float64), [1, 1])
    factor, damped = _damped_inverse_factor(stack, shift)
    factor = tf.reshape(factor, tf.shape(gram))
    factor.set_shape(gram.shape)
    return direction(lambda x: _apply(factor, x)), damped


@xla.traced_once
def _damped_inverse_factor(gram, shift):
    """Returns `W` with `WᵀW = (gram + shift I)⁻¹`, and whether the diagonal was raised, as it
    is where `W` cannot be trusted otherwise."""
    factor, trusted = _shared_inverse_factor(gram, shift, tf.zeros_like(shift), True)

    def raised():
        factor, _ = _shared_inverse_factor(gram, shift, tf.zeros_like(shift) + _DAMPING, True)
        # A result that is not finite was not damped: the input was not finite.
        return factor, tf.reduce_all(tf.math.is_finite(factor))

    return tf.cond(trusted, lambda: (factor, tf.constant(False)), raised)


def _apply(factor, right):
    """Returns `WᵀW right`."""
    n, columns = right.shape[-2:]
    few = columns is not None and (columns <= _PROBES or (n is not None and columns < n))
    if few:
        return tf32.matmul(factor, tf32.matmul(factor, right), transpose_a=True)
    return tf32.matmul(tf32.with_itself(factor, transpose_a=True), right)
