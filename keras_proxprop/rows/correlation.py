"""The Gram matrix of a convolution's patches, exactly, without the patches.

With `x` the images, zero outside their borders, and windows at the positions `p`,

    G[(i, c), (j, e)] = Σ_p x[p + i, c] x[p + j, e].

Were the sum over all positions, it would depend on `i` and `j` only through
`j - i`: one correlation of `x` with itself. Along one axis the windows leave out

    low:   the pixels before the first window, moved by tap i:   q < i
    high:  the pixels after the last window, moved by tap i:     q ≥ i + outputs

so `G = full(j - i) - low(i, j) - high(i, j)`, where `low` and `high` need only the
`k - 1` pixels at either end. These become channels, and the other axes are treated in
the same way: no border is approximated.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from keras_proxprop import xla
from keras_proxprop.rows.arrays import size

# TensorFlow's filter gradient adds up all positions one after the other in float32: over
# 400,000 of them 7e-5 of the Gram matrix is lost, in four parts 2e-5, in sixteen 1e-6, at a
# fifth more time. XLA, and convolutions, add up in blocks and lose no more than that in one
# part. Batches and images of unknown size are taken to be so large.
_POSITIONS = 12_500
_PARTS = 16
_BATCH = 128
_PIXELS = 32


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

    # The pixels at either end that some tap's windows leave out, in groups of `dilation`.
    @property
    def low_groups(self):
        return max(self.taps - 1 - self.low // self.dilation, 0)

    @property
    def high_groups(self):
        return max(self.taps - 1 - self.high // self.dilation, 0)

    @property
    def groups(self):
        return self.low_groups + self.high_groups


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
    taps = axis.taps
    # The taps i and j take the full correlation at offset j - i.
    offsets = np.arange(taps) - np.arange(taps)[:, None] + taps - 1
    result = tf.gather(full, offsets, axis=position)
    if not axis.groups:
        return result
    ends = tf.concat(_strips(x, axis, position + 1), axis=-1)
    terms = _unfold(_windowed(ends, rest, correlated), axis.groups, position)
    lost = tf.tensordot(tf.constant(_ends(axis), x.dtype), terms, [[2], [position]])
    order = list(range(2, position + 2)) + [0, 1] + list(range(position + 2, len(lost.shape)))
    return result - tf.transpose(lost, order)


def _ends(axis):
    """Returns a matrix `[i, j, pair]`: the taps (i, j) lose the pairs (q, q + j - i) of
    pixels outside of their windows.

    They are q < i among the groups of the low strip, and q ≥ i among those of the high one,
    counted from the first pixel past the windows of tap 0. The two strips never mix.
    """
    taps, groups = axis.taps, axis.groups
    first = taps - 1 - axis.low_groups
    matrix = np.zeros([taps, taps, groups, groups])
    for i in range(taps):
        for j in range(taps):
            low = [q for q in range(first, i) if q + j - i >= first]
            high = [q for q in range(i, axis.high_groups) if q + j - i < axis.high_groups]
            places = [q - first for q in low] + [axis.low_groups + q for q in high]
            for place in places:
                matrix[i, j, place, place + j - i] = 1
    return matrix.reshape(taps, taps, -1)


def _strips(x, axis, dim):
    """The first and last `(taps - 1) * dilation` pixels of the padded axis, without the
    groups of pixels that are padding only, folded into channels."""
    reach = (axis.taps - 1) * axis.dilation
    strips = []
    if axis.low_groups:
        pixels = reach - axis.low
        strip = _slice(x, dim, slice(0, pixels))
        before = axis.low_groups * axis.dilation - pixels
        strip = _pad(strip, dim, before, pixels - size(strip, dim))
        strips.append(_fold(strip, dim, axis.low_groups, axis.dilation))
    if axis.high_groups:
        pixels = reach - axis.high
        length = size(x, dim)
        start = length - pixels
        start = max(start, 0) if isinstance(start, int) else tf.maximum(start, 0)
        strip = _slice(x, dim, slice(start, None))
        after = axis.high_groups * axis.dilation - pixels
        strip = _pad(strip, dim, pixels - size(strip, dim), after)
        strips.append(_fold(strip, dim, axis.high_groups, axis.dilation))
    return strips


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
    parts = _parts(x, 1 if xla.for_cpu() else _number_of_parts(x))
    half = tf.add_n([_half_correlation(part, axes) for part in parts])
    mirrored = tf.reverse(half[1:], list(range(len(axes))))
    return tf.concat([tf.linalg.matrix_transpose(mirrored), half], axis=0)


def _number_of_parts(x):
    positions = (x.shape[0] or _BATCH) * math.prod(n or _PIXELS for n in x.shape[1:-1])
    return min(max(positions // _POSITIONS, 1), _PARTS)


def _parts(x, count):
    """Returns `x` in `count` parts along the batch, of which some may be empty."""
    if count == 1:
        return [x]
    batch = size(x, 0)
    ends = [i * batch // count for i in range(count + 1)]
    return [x[start:end] for start, end in zip(ends, ends[1:])]


def _half_correlation(x, axes):
    """Returns `Σ_q x[q, c] x[q + δ, e]`, δ ≥ 0 along the first axis, `[*offsets, c, e]`."""
    reach = [[0, axes[0].taps - 1]] + [[axis.taps - 1] * 2 for axis in axes[1:]]
    offsets = [axes[0].taps] + [axis.offsets for axis in axes[1:]]
    padded = tf.pad(x, [[0, 0], *reach, [0, 0]])
    filter_gradient = xla.filter_gradient if xla.for_cpu() else _filter_gradient
    return tf.linalg.matrix_transpose(filter_gradient(padded, x, offsets))


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
    n = len(offsets)
    if n == 1:
        padded, x, offsets = padded[:, None], x[:, None], [1] + offsets
    arguments = {
        "input": padded,
        "filter_sizes": [*offsets, x.shape[-1], x.shape[-1]],
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
    if axis.groups:
        without = lengths[:position] + lengths[position + 1 :]
        ends = _cost(without, channels * axis.groups, rest, correlated)
        total += axis.dilation * ends
    return total
