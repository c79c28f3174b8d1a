"""The Gram matrix of a convolution's patches, exactly, without the patches.

With `x` the images, zero outside their borders, and windows at the positions `p`,

    G[(i, c), (j, e)] = Σ_p x[p + i, c] x[p + j, e].

If the sum were over all positions, it would depend on `i` and `j` only through
`j - i`: one correlation of `x` with itself. Along one axis the windows leave out

    low:   the pixels before the first window, moved by tap i:   q < i
    high:  the pixels after the last window, moved by tap i:     q ≥ i + outputs

so `G = full(j - i) - low(i, j) - high(i, j)`, where `low` and `high` need only the
`k - 1` pixels at either end. Those pixels become channels, and the other axes are treated in
the same way: no border is approximated.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from keras_proxprop import tf32
from keras_proxprop.rows.arrays import pad, size, sizes_to_keep, times
from keras_proxprop.rows.self_correlation import correlate_with_itself


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
        return correlate_with_itself(x, correlated)
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
    lose = tf.constant(_ends(axis), x.dtype)
    lost = tf32.selected(lambda part: tf.tensordot(lose, part, [[2], [position]]), terms)
    order = list(range(2, position + 2)) + [0, 1] + list(range(position + 2, len(lost.shape)))
    return result - tf.transpose(lost, order)


def _ends(axis):
    """Returns a matrix `[i, j, pair]`: the taps (i, j) lose the pairs (q, q + j - i) of
    pixels outside of their windows.

    Those are the pairs with q < i in the groups of the low strip, and with q ≥ i in the groups
    of the high strip, where q counts from the first pixel past the windows of tap 0.
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
        strip = pad(strip, dim, before, pixels - size(strip, dim))
        strips.append(_fold(strip, dim, axis.low_groups, axis.dilation))
    if axis.high_groups:
        pixels = reach - axis.high
        length = size(x, dim)
        start = length - pixels
        start = max(start, 0) if isinstance(start, int) else tf.maximum(start, 0)
        strip = _slice(x, dim, slice(start, None))
        after = axis.high_groups * axis.dilation - pixels
        strip = pad(strip, dim, pixels - size(strip, dim), after)
        strips.append(_fold(strip, dim, axis.high_groups, axis.dilation))
    return strips


def _slice(x, dim, window):
    return x[(slice(None),) * dim + (window,)]


def _fold(strip, dim, groups, dilation):
    """Moves axis `dim` away: groups to the channels, phases (of the dilation) to the batch."""
    sizes, last = sizes_to_keep(strip), len(strip.shape) - 1
    rest, spatial = sizes[1:dim] + sizes[dim + 1 : -1], [a for a in range(1, last) if a != dim]
    order = [0, *spatial, dim, last]
    if dilation > 1:
        strip = tf.reshape(strip, sizes[:dim] + [groups, dilation] + sizes[dim + 1 :])
        order = [dim + 1, *(a + (a > dim) for a in order)]
    strip = tf.transpose(strip, order)
    return tf.reshape(strip, [times(sizes[0], dilation), *rest, groups * sizes[-1]])


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
