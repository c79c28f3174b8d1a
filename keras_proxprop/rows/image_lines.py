"""The Gram matrix of a convolution's patches from products of image lines with image lines.

A line of an image is its pixels along the last spatial axis. (A "row" is always one of `A`.)

With `x` the padded images of one group of channels, and windows at `(p, q)`, the entry of two
taps is

    G[(i, k), (j, l)] = Σ_pq x[p + i, q + k] x[p + j, q + l].

The sum over images and lines `p` is a matrix product of image lines with image lines, `[width,
width]` for every group and pair `(i, j)`; the sum over `q` runs along its diagonals. Pairs of
taps at the same distance share the products of those lines that each of the pairs sees.

This way is cheap for groups of channels, and for images of few pixels.
"""

import collections
import dataclasses
import itertools
import math

import numpy as np
import tensorflow as tf

from keras_proxprop import machine, tf32

# Lines of more windows than this are cut into equal pieces of at most this many windows, since
# a product grows with the square of its width.
_WIDEST = 32


@dataclasses.dataclass(frozen=True)
class _Axis:
    """The windows along one axis: tap `i` of window `p` sees pixel `p * stride + i * dilation`
    of the padded axis, whose own pixels are `low` to `low + length`."""

    taps: int
    stride: int
    dilation: int
    low: int
    high: int
    length: int
    windows: int

    @classmethod
    def of(cls, geometry, axis, length):
        pads, windows = geometry.pads(axis, length), geometry.outputs(axis, length)
        parts = geometry.kernel_size, geometry.strides, geometry.dilation
        return cls(*(part[axis] for part in parts), *pads, length, windows)

    @property
    def reach(self):
        return (self.taps - 1) * self.dilation

    def pixels(self, windows):
        """Returns how many pixels this many neighbouring windows see."""
        return (windows - 1) * self.stride + self.reach + 1

    def is_pixel(self, place):
        """Returns whether a place of the padded axis is a pixel, and not padding."""
        return self.low <= place < self.low + self.length


@dataclasses.dataclass(frozen=True)
class ImageLineProducts:
    """The Gram matrices of the groups' patches, from products of image lines.

    Attributes:
        groups: number of groups.
        channels: channels of each.
        lines, width: the `_Axis` of the vertical and of the horizontal axis.
    """

    groups: int
    channels: int
    lines: _Axis
    width: _Axis

    @classmethod
    def of(cls, shape, geometry, groups):
        """Returns the products for images of that shape, `None` where they cannot be made."""
        lengths = shape[1:-1]
        if len(lengths) > 2 or None in lengths:
            return None
        axes = [_Axis.of(geometry, a, length) for a, length in enumerate(lengths)]
        if min(axis.windows for axis in axes) < 1:
            return None
        # A sequence is an image of one line.
        axes = [_Axis(1, 1, 1, 0, 0, 1, 1), *axes][-2:]
        return cls(groups, shape[-1] // groups, *axes)

    @property
    def pieces(self):
        """Number of pieces, of equally many windows, into which every line is cut."""
        windows = self.width.windows
        counts = range(-(-windows // _WIDEST), windows // (_WIDEST // 2) + 1)
        return next((n for n in counts if windows % n == 0), 1)

    @property
    def pixels(self):
        """How many pixels of a line are multiplied with one another: all that a piece sees."""
        if self.pieces == 1:
            return self.width.length
        return self.width.pixels(self.width.windows // self.pieces)

    @property
    def cost(self):
        """Multiply-adds per image, with the copying of the images counted in."""
        numbers = self.groups * self.pieces * self.pixels * self.channels
        lines = sum(len(lines) for lines, _ in self.shared_lines())
        write = machine.in_force().write
        return numbers * (lines * self.pixels * self.channels + write * self.lines.length)

    @property
    def numbers(self):
        """How many numbers the products have, at any batch size."""
        return len(self.shared_lines()) * self.groups * (self.pixels * self.channels) ** 2

    def shared_lines(self):
        """Returns `{(lines, distance): first taps}`: exactly these taps see each of the lines
        while the tap that is `distance` below them sees a pixel, too."""
        axis = self.lines
        shared = {}
        for distance in range(axis.taps):
            taps_of = collections.defaultdict(list)
            below = distance * axis.dilation
            for tap in range(axis.taps - distance):
                for window in range(axis.windows):
                    line = window * axis.stride + tap * axis.dilation
                    if axis.is_pixel(line) and axis.is_pixel(line + below):
                        taps_of[line].append(tap)
            lines_of = collections.defaultdict(list)
            for line, taps in taps_of.items():
                lines_of[tuple(taps)].append(line)
            shared |= {(tuple(lines), distance): taps for taps, lines in lines_of.items()}
        return shared

    def gram(self, images):
        """Returns `[groups, features, features]`."""
        x = self._by_group(images)
        # Products of equally many lines are made at once.
        terms = sorted(self.shared_lines().items(), key=_number_of_lines)
        products = []
        for _, alike in itertools.groupby(terms, key=_number_of_lines):
            alike = list(alike)
            upper = np.array([lines for (lines, _), _ in alike]) - self.lines.low
            below = [[distance * self.lines.dilation] for (_, distance), _ in alike]
            products.append(
                tf32.matmul(_take(x, upper), _take(x, upper + below), transpose_a=True)
            )
        sizes = self.groups, self.lines.taps, self.width.taps, self.channels
        features = math.prod(sizes[1:])
        if not products:
            return tf.zeros([self.groups, features, features], images.dtype)
        products = tf.reshape(
            tf.concat(products, axis=1),
            [self.groups, -1, self.pixels, self.channels, self.pixels, self.channels],
        )
        along = tf.constant(self._along_the_diagonals(), images.dtype)
        products = _selected("gmpcqe,pqkl->gmkcle", products, along)
        places = tf.constant(self._places(terms), images.dtype)
        half = _selected("gmkcle,mij->gikcjle", products, places)
        half = tf.reshape(half, [self.groups, features, features])
        return half + tf.linalg.matrix_transpose(half)

    def _by_group(self, images):
        """Returns `[groups, lines, batch * pieces, pixels * channels]`."""
        axis = self.width
        sizes = [self.lines.length, axis.length, self.groups, self.channels]
        # Transposed before all else, or XLA would transpose again for every product.
        x = tf.transpose(tf.reshape(images, [-1, *sizes]), [3, 1, 0, 2, 4])
        if self.pieces > 1:
            x = tf.pad(x, [[0, 0]] * 3 + [[axis.low, axis.high], [0, 0]])
            step = axis.stride * axis.windows // self.pieces
            starts = [piece * step for piece in range(self.pieces)]
            x = tf.stack([x[:, :, :, start : start + self.pixels] for start in starts], axis=3)
        rest = self.pixels * self.channels
        return tf.reshape(x, [self.groups, self.lines.length, -1, rest])

    def _along_the_diagonals(self):
        """Returns ones where taps `(left, right)` of a window see a pair of pixels."""
        axis, pixels = self.width, self.pixels
        # Padding is left out of the products, or it is zero.
        low = axis.low if self.pieces == 1 else 0
        ones = np.zeros([pixels, pixels, axis.taps, axis.taps])
        for window in range(axis.windows // self.pieces):
            for taps in np.ndindex(axis.taps, axis.taps):
                sees = [window * axis.stride + tap * axis.dilation - low for tap in taps]
                if 0 <= min(sees) and max(sees) < pixels:
                    ones[(*sees, *taps)] = 1
        return ones

    def _places(self, terms):
        """Returns for which pairs of taps `(i, j)` each product counts: by half where `i` is
        `j`, since the other half is added with the transpose."""
        places = np.zeros([len(terms), self.lines.taps, self.lines.taps])
        for place, ((_, distance), taps) in zip(places, terms):
            for tap in taps:
                place[tap, tap + distance] = 1 if distance else 0.5
        return places


def _selected(equation, x, zeros_and_ones):
    return tf32.selected(lambda part: tf.einsum(equation, part, zeros_and_ones), x)


def _number_of_lines(term):
    (lines, _), _ = term
    return len(lines)


def _take(x, lines):
    """Returns the lines of every product, `[groups, products, lines * batch * pieces, n]`."""
    steps = np.unique(np.diff(lines[0]))
    if len(lines) == 1 and len(steps) < 2:
        step = int(steps[0]) if len(steps) else 1
        taken = x[:, lines[0, 0] : lines[0, -1] + 1 : step]
    else:
        taken = tf.gather(x, lines, axis=1)
    return tf.reshape(taken, [x.shape[0], len(lines), -1, x.shape[-1]])
