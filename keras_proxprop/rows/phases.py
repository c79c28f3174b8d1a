"""Windows with strides as windows without strides: the phases of a stride are channels."""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from keras_proxprop.rows.arrays import pad, size, sizes_to_keep
from keras_proxprop.rows.correlation import Axis


@dataclasses.dataclass(frozen=True)
class Phases:
    """A convolution with strides as one of stride 1, over images that have more channels.

    Attributes:
        geometry: kernel size, strides, dilation and padding.
        channels: number of channels of the images.
    """

    geometry: object
    channels: int

    @property
    def needed(self):
        """Whether there are strides at all."""
        return any(stride > 1 for stride in self.geometry.strides)

    @property
    def _taps(self):
        """Taps of the kernel without strides, along each axis."""
        g = self.geometry
        return [-(-k // s) for k, s in zip(g.kernel_size, g.strides)]

    def axes(self, length):
        """Returns the `Axis` of each spatial axis. Padding may depend on its `length`."""
        g = self.geometry
        if self.needed:
            return tuple(Axis(taps, 1, 0, 0) for taps in self._taps)
        axes = enumerate(zip(g.kernel_size, g.dilation))
        return tuple(Axis(k, d, *g.pads(a, length)) for a, (k, d) in axes)

    def sizes(self, lengths):
        """Returns the spatial axes' lengths and the number of channels, of what `of` returns
        for images with these lengths."""
        g = self.geometry
        if not self.needed:
            return [*lengths, self.channels]
        grid = [
            g.outputs(a, n) + taps - 1 for a, (n, taps) in enumerate(zip(lengths, self._taps))
        ]
        return [*grid, self.channels * math.prod(g.strides)]

    def of(self, x, grid):
        """Returns images with the phases of every stride in their channels.

        Args:
            x: images with their padding.
            grid: how many windows fit along each axis.
        """
        strides = self.geometry.strides
        for dim, (taps, stride) in enumerate(zip(self._taps, strides), 1):
            groups = grid[dim - 1] + taps - 1
            x = x[(slice(None),) * dim + (slice(0, groups * stride),)]
            x = pad(x, dim, 0, groups * stride - size(x, dim))
            sizes = sizes_to_keep(x)
            x = tf.reshape(x, sizes[:dim] + [groups, stride] + sizes[dim + 1 :])
            last = len(x.shape) - 1
            others = [a for a in range(last) if a != dim + 1]
            x = tf.transpose(x, others + [dim + 1, last])
            sizes[dim], sizes[-1] = groups, stride * sizes[-1]
            x = tf.reshape(x, sizes)
        return x

    def in_order_of_taps(self, gram):
        """Returns a Gram matrix of phases with its rows and columns in the kernel's order."""
        if not self.needed:
            return gram
        taps = self._positions_of_taps()
        return tf.gather(tf.gather(gram, taps, axis=0), taps, axis=1)

    def _positions_of_taps(self):
        """Returns where the kernel's (tap, channel) pairs stand among those of the phases."""
        g = self.geometry
        grid = np.indices((*g.kernel_size, self.channels))
        position = np.zeros_like(grid[0])
        for tap, taps, s in zip(grid, self._taps, g.strides):
            position = position * taps + tap // s
        for tap, s in reversed(list(zip(grid, g.strides))):
            position = position * s + tap % s
        return (position * self.channels + grid[-1]).reshape(-1)
