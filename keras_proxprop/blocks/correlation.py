"""The Gram matrix of a convolution's patches, exactly, without the patches.

With `x` the images, zero outside their borders, and windows at the positions `p`,

    G[(i, c), (j, e)] = Σ_p x[p + i, c] x[p + j, e].

Were the sum over all positions, it would depend on `i` and `j` only through
`j - i`: one correlation of `x` with itself. Along one axis the windows leave out

    low:   the pixels before the first window, moved by tap i:   q < i
    high:  the pixels after the last window, moved by tap i:     q ≥ i + outputs

so `G = full(j - i) - low(i, j) - high(i, j)`, where `low` and `high` need only the
`k - 1` pixels at either end. Their pixels along this axis become channels, and the
other axes are treated in the same way: no border is approximated.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from keras_proxprop.blocks.rows import size


@dataclasses.dataclass(frozen=True)
class Axis:
    """One spatial axis: `taps` of the kernel, `dilation` pixels apart, stride 1,
    over images with `low` and `high` zeros around them."""

    taps: int
    dilation: int
    low: int
    high: int

    @property
    def offsets(self):
        return 2 * self.taps - 1


def gram(images, axes):
    """Returns the Gram matrix of all patches, `[taps * channels, taps * channels]`.

    Args:
        images: `[batch, *spatial, channels]`, without their zero padding.
        axes: an `Axis` per spatial axis.
    """
    terms = _windowed(images, axes, ())
    order = len(axes)
    channels = images.shape[-1]
    rows = [2 * a for a in range(order)] + [2 * order]
    columns = [2 * a + 1 for a in range(order)] + [2 * order + 1]
    features = math.prod(axis.taps for axis in axes) * channels
    return tf.reshape(tf.transpose(terms, rows + columns), [features, features])


def cost(lengths, channels, axes):
    """Returns the multiply-adds of `gram` for one image of `lengths` pixels."""
    if not axes:
        return math.prod(lengths) * channels**2
    return _cost(list(lengths), channels, axes, ())


def _windowed(x, axes, correlated):
    """Returns `[*offsets of correlated axes, *(i, j) of each of axes, channels, channels]`.

    The first spatial axes of `x` are `correlated` (summed over all positions); `axes`
    are summed over their windows.
    """
    if not axes:
        return _correlate(x, correlated)
    axis, rest = axes[0], axes[1:]
    position = len(correlated)
    full = _windowed(x, rest, correlated + (axis,))
    result = _expand(full, _toeplitz(axis.taps), position)
    for strip, ends in (
        (_low_strip(x, axis, position + 1), _low_ends),
        (_high_strip(x, axis, position + 1), _high_ends),
    ):
        if strip is None:
            continue
        groups = strip.shape[-1] // x.shape[-1]
        terms = _windowed(strip, rest, correlated)
        terms = _unfold(terms, groups, position)
        result -= _expand(terms, ends(axis.taps, groups), position)
    return result


def _expand(terms, matrix, position):
    """Maps axis `position` of `terms` by a constant `[k * k, n]` matrix to axes `(i, j)`."""
    taps = math.isqrt(matrix.shape[0])
    matrix = tf.constant(matrix, terms.dtype)
    moved = tf.tensordot(matrix, terms, [[1], [position]])
    order = list(range(1, position + 1)) + [0] + list(range(position + 1, len(moved.shape)))
    moved = tf.transpose(moved, order)
    shape = moved.shape.as_list()
    return tf.reshape(moved, shape[:position] + [taps, taps] + shape[position + 1 :])


def _toeplitz(taps):
    """(i, j) takes the full correlation at offset j - i."""
    matrix = np.zeros([taps, taps, 2 * taps - 1])
    for i in range(taps):
        for j in range(taps):
            matrix[i, j, j - i + taps - 1] = 1
    return matrix.reshape(taps * taps, -1)


def _low_ends(taps, groups):
    """(i, j) loses the pixel pairs (q, q + j - i) with q < i.

    The strip has the groups of pixels q ≥ taps - 1 - groups: those before are zero.
    """
    first = taps - 1 - groups
    matrix = np.zeros([taps, taps, groups, groups])
    for i in range(taps):
        for j in range(taps):
            for q in range(first, i):
                if q + j - i >= first:
                    matrix[i, j, q - first, q + j - i - first] = 1
    return matrix.reshape(taps * taps, -1)


def _high_ends(taps, groups):
    """(i, j) loses the pairs (q, q + j - i) with q ≥ i, counted from the first pixel past
    the windows of tap 0; the strip has q < groups."""
    matrix = np.zeros([taps, taps, groups, groups])
    for i in range(taps):
        for j in range(taps):
            for q in range(i, groups):
                if q + j - i < groups:
                    matrix[i, j, q, q + j - i] = 1
    return matrix.reshape(taps * taps, -1)


def _low_strip(x, axis, dim):
    """The first `(taps - 1) * dilation` pixels of the padded axis, folded into channels."""
    groups = axis.taps - 1 - axis.low // axis.dilation
    if groups <= 0:
        return None
    pixels = (axis.taps - 1) * axis.dilation - axis.low
    strip = _slice(x, dim, slice(0, pixels))
    before = groups * axis.dilation - pixels
    strip = _pad(strip, dim, before, pixels - size(strip, dim))
    return _fold(strip, dim, groups, axis.dilation)


def _high_strip(x, axis, dim):
    """The last `(taps - 1) * dilation` pixels of the padded axis, folded into channels."""
    groups = axis.taps - 1 - axis.high // axis.dilation
    if groups <= 0:
        return None
    pixels = (axis.taps - 1) * axis.dilation - axis.high
    length = size(x, dim)
    start = (
        max(length - pixels, 0) if isinstance(length, int) else tf.maximum(length - pixels, 0)
    )
    strip = _slice(x, dim, slice(start, None))
    after = groups * axis.dilation - pixels
    strip = _pad(strip, dim, pixels - size(strip, dim), after)
    return _fold(strip, dim, groups, axis.dilation)


def _slice(x, dim, window):
    return x[(slice(None),) * dim + (window,)]


def _pad(x, dim, before, after):
    if isinstance(before, int) and isinstance(after, int) and before == after == 0:
        return x
    paddings = [[0, 0]] * dim + [[before, after]] + [[0, 0]] * (len(x.shape) - dim - 1)
    return tf.pad(x, paddings)


def _fold(strip, dim, groups, dilation):
    """Moves axis `dim` away: groups to the channels, phases (of the dilation) to the batch."""
    sizes = [size(strip, a) for a in range(len(strip.shape))]
    strip = tf.reshape(strip, sizes[:dim] + [groups, dilation] + sizes[dim + 1 :])
    last = len(strip.shape) - 1
    spatial = [a for a in range(1, last) if a not in (dim, dim + 1)]
    strip = tf.transpose(strip, [dim + 1, 0] + spatial + [dim, last])
    rest = sizes[1:dim] + sizes[dim + 1 : -1]
    return tf.reshape(strip, [sizes[0] * dilation] + rest + [groups * sizes[-1]])


def _unfold(terms, groups, position):
    """Splits channels into (group, channel); the pairs of groups become axis `position`."""
    shape = terms.shape.as_list()
    channels = shape[-1] // groups
    terms = tf.reshape(terms, shape[:-2] + [groups, channels, groups, channels])
    n = len(shape) - 2
    order = list(range(position)) + [n, n + 2] + list(range(position, n)) + [n + 1, n + 3]
    terms = tf.transpose(terms, order)
    shape = terms.shape.as_list()
    return tf.reshape(terms, shape[:position] + [groups**2] + shape[position + 2 :])


def _correlate(x, axes):
    """Returns `Σ_q x[q, c] x[q + δ, e]` for all offsets, `[*offsets, channels, channels]`.

    Offsets that are negative along the first axis follow from symmetry.
    """
    channels = x.shape[-1]
    if not axes:
        flat = tf.reshape(x, [-1, channels])
        return tf.matmul(flat, flat, transpose_a=True)
    for a, axis in enumerate(axes):
        x = _phases_to_batch(x, axis.dilation, a + 1)
    first = axes[0].taps
    reach = [[0, first - 1]] + [[axis.taps - 1] * 2 for axis in axes[1:]]
    offsets = [first] + [axis.offsets for axis in axes[1:]]
    half = _filter_gradient(tf.pad(x, [[0, 0]] + reach + [[0, 0]]), x, offsets)
    n = len(axes)
    mirrored = tf.reverse(half[1:], list(range(n)))
    half = tf.transpose(half, list(range(n)) + [n + 1, n])
    return tf.concat([mirrored, half], axis=0)


def _phases_to_batch(x, dilation, dim):
    if dilation == 1:
        return x
    length = size(x, dim)
    x = _pad(x, dim, 0, -length % dilation)
    sizes = [size(x, a) for a in range(len(x.shape))]
    x = tf.reshape(x, sizes[:dim] + [sizes[dim] // dilation, dilation] + sizes[dim + 1 :])
    others = [a for a in range(1, len(x.shape)) if a != dim + 1]
    x = tf.transpose(x, [dim + 1, 0] + others)
    sizes[0], sizes[dim] = sizes[0] * dilation, sizes[dim] // dilation
    return tf.reshape(x, sizes)


def _filter_gradient(padded, x, offsets):
    """Returns `Σ_q padded[q + δ, e] x[q, c]`, `[*offsets, e, c]`."""
    channels = x.shape[-1]
    n = len(offsets)
    if n == 1:
        padded, x, offsets = padded[:, None], x[:, None], [1] + offsets
    arguments = {
        "input": padded,
        "filter_sizes": [*offsets, channels, channels],
        "out_backprop": x,
        "strides": [1] * (len(offsets) + 2),
        "padding": "VALID",
    }
    if n == 3:
        return tf.raw_ops.Conv3DBackpropFilterV2(**arguments)
    filters = tf.raw_ops.Conv2DBackpropFilter(**arguments)
    return filters[0] if n == 1 else filters


def _cost(lengths, channels, axes, correlated):
    if not axes:
        if not correlated:
            return math.prod(lengths) * channels**2
        offsets = correlated[0].taps * math.prod(a.offsets for a in correlated[1:])
        reach = [n + (a.taps - 1) * a.dilation for n, a in zip(lengths, correlated)]
        return math.prod(reach) * offsets * channels**2
    axis, rest = axes[0], axes[1:]
    position = len(correlated)
    total = _cost(lengths, channels, rest, correlated + (axis,))
    without = lengths[:position] + lengths[position + 1 :]
    for pad in (axis.low, axis.high):
        groups = axis.taps - 1 - pad // axis.dilation
        if groups > 0:
            total += axis.dilation * _cost(without, channels * groups, rest, correlated)
    return total
