"""Images correlated with themselves, over all positions."""

import math

import numpy as np
import tensorflow as tf

from keras_proxprop import tf32, xla
from keras_proxprop.rows.arrays import pad, size, sizes_to_keep, times

# TensorFlow's filter gradient adds up all positions one after the other in float32. Over
# 400,000 positions it loses 7e-5 of the Gram matrix, in four parts 2e-5, and in sixteen 1e-6,
# at a fifth more time. XLA and convolutions add up in blocks, and lose at most 1e-6 in one
# part. Batches and images of unknown size count as large ones.
_POSITIONS = 12_500
_PARTS = 16
_BATCH = 128
_PIXELS = 32


def correlate_with_itself(x, axes):
    """Returns `Σ_q x[q, c] x[q + δ, e]` for all offsets, `[*offsets, channels, channels]`.

    Offsets that are negative along the first axis follow from symmetry.

    Args:
        x: `[batch, *spatial, channels]`.
        axes: an object with `taps`, `dilation` and `offsets` for each spatial axis.
    """
    channels = x.shape[-1]
    if not axes:
        flat = tf.reshape(x, [-1, channels])
        return tf32.with_itself(flat, transpose_a=True)
    for a, axis in enumerate(axes):
        x = _phases_to_batch(x, axis.dilation, a + 1)
    half = _half_correlation(x, axes)
    mirrored = tf.reverse(half[1:], list(range(len(axes))))
    return tf.concat([tf.linalg.matrix_transpose(mirrored), half], axis=0)


def _number_of_parts(x):
    positions = (x.shape[0] or _BATCH) * math.prod(n or _PIXELS for n in x.shape[1:-1])
    return min(max(positions // _POSITIONS, 1), _PARTS)


def _half_correlation(x, axes):
    """Returns `Σ_q x[q, c] x[q + δ, e]`, δ ≥ 0 along the first axis, `[*offsets, c, e]`."""
    reach = [[0, axes[0].taps - 1]] + [[axis.taps - 1] * 2 for axis in axes[1:]]
    offsets = [axes[0].taps] + [axis.offsets for axis in axes[1:]]
    padded = tf.pad(x, [[0, 0], *reach, [0, 0]])
    filter_gradient = xla.filter_gradient if xla.for_cpu() else _filter_gradient

    def correlation(padded, x):
        return filter_gradient(padded, x, offsets)

    return tf.linalg.matrix_transpose(tf32.product(correlation, padded, x))


def _phases_to_batch(x, dilation, dim):
    if dilation == 1:
        return x
    length = size(x, dim)
    x = pad(x, dim, 0, -length % dilation)
    sizes = sizes_to_keep(x)
    x = tf.reshape(x, sizes[:dim] + [sizes[dim] // dilation, dilation] + sizes[dim + 1 :])
    others = [a for a in range(1, len(x.shape)) if a != dim + 1]
    x = tf.transpose(x, [dim + 1, 0] + others)
    sizes[0], sizes[dim] = times(sizes[0], dilation), sizes[dim] // dilation
    return tf.reshape(x, sizes)


def _filter_gradient(padded, x, offsets):
    """Returns `Σ_q padded[q + δ, e] x[q, c]`, `[*offsets, e, c]`, added up in parts."""
    count, n = _number_of_parts(x), len(offsets)
    if n == 1:
        padded, x, offsets = tf.expand_dims(padded, 1), tf.expand_dims(x, 1), [1] + offsets
    common = {
        "filter_sizes": tf.constant([*offsets, x.shape[-1], x.shape[-1]]),
        "strides": [1] * (len(offsets) + 2),
        "padding": "VALID",
    }
    gradient = tf.raw_ops.Conv3DBackpropFilterV2 if n == 3 else tf.raw_ops.Conv2DBackpropFilter
    parts = [(padded, x)]
    if count > 1:
        batch = size(x, 0)
        # Some parts of a small batch are empty.
        part = np.arange(count, dtype="int32")
        sizes = (part + 1) * batch // count - part * batch // count
        parts = zip(*(tf.split(each, sizes, num=count) for each in (padded, x)))
    filters = tf.add_n([gradient(input=p, out_backprop=d, **common) for p, d in parts])
    return tf.squeeze(filters, 0) if n == 1 else filters
