"""The patches of images as rows, which are written out only where that pays."""

import functools
import math

import numpy as np
import tensorflow as tf

from keras_proxprop import machine, tf32
from keras_proxprop.rows import correlation
from keras_proxprop.rows.arrays import border, size
from keras_proxprop.rows.base import Rows
from keras_proxprop.rows.image_lines import ImageLineProducts
from keras_proxprop.rows.matrix import MatrixRows
from keras_proxprop.rows.phases import Phases

# Where costs are compared, an axis of unknown length counts as this many pixels.
_NOMINAL = 64
# Images of more pixels along an axis do not use products of image lines: over many positions,
# on one core, the rounding of such products changed directions by two thousandths.
_SMALL = 8
# Products of image lines may have this many numbers, or this many times the numbers of the
# Gram matrix if that is more.
_PRODUCT_NUMBERS = 2**22
_TIMES_THE_GRAM = 4
# How many operations more than writing patches the other ways are; what one costs to trace,
# and to run however small images are, in multiply-adds; at what batch size.
_OPERATIONS = {"correlation": 60, "products": 20}
_OPERATION = 5e5
_BATCH = 64


class PatchRows(Rows):
    """The patches of `images` (`[batch, *spatial, channels]`), a row each. Where a product or
    a correlation can take their place, they are not written out."""

    # Another form is cheaper only for a few images, and would double the code to compile.
    choose_at_run_time = False

    def __init__(self, images, geometry, bias, groups=1):
        self.images = images
        self.geometry = geometry
        self.groups = groups
        patch = math.prod(geometry.kernel_size) * images.shape[-1]
        lengths = enumerate(self._nominal_lengths())
        per_item = math.prod(geometry.outputs(a, n) for a, n in lengths)
        super().__init__(bias, patch // groups + int(bias), images.dtype, per_item)
        self.matrix_cost = machine.in_force().write * patch

    @functools.cached_property
    def gram_cost(self):
        return min(self._gram_costs.values()) / self.per_item

    @functools.cached_property
    def _products(self):
        return ImageLineProducts.of(self.images.shape, self.geometry, self.groups)

    @functools.cached_property
    def _gram_costs(self):
        """Multiply-adds per image of every way to the Gram matrix."""
        costs = {"patches": self._patch_cost(), "correlation": self._correlation_cost()}
        most = max(_PRODUCT_NUMBERS, _TIMES_THE_GRAM * self.features**2)
        small = max(self._nominal_lengths()) <= _SMALL
        if small and self._products is not None and self._products.numbers <= most:
            costs["products"] = self._products.cost
        # In TF32 a product of patches with themselves lost 2e-3 of a direction at τ = 100,
        # where the other ways lose less than 1e-3.
        one = 0 if tf32.rounds_products() else _OPERATION / _BATCH
        return {way: cost + one * _OPERATIONS.get(way, 0) for way, cost in costs.items()}

    @property
    def _way(self):
        return min(self._gram_costs, key=self._gram_costs.get)

    @property
    def grid(self):
        """How many windows fit along each spatial axis."""
        axes = range(len(self.geometry.kernel_size))
        return [self.geometry.outputs(a, size(self.images, a + 1)) for a in axes]

    @property
    def count(self):
        return size(self.images, 0) * math.prod(self.grid)

    def multiply(self, direction):
        kernel = self._filters(direction[0])
        product = tf32.product(self._convolve, self.images, kernel)
        product = tf.reshape(product, [-1, product.shape[-1]])
        return product + direction[1] if self.bias else product

    def multiply_transposed(self, d, split=2):
        return self._with_bias(self._correlate(d, split), d)

    def trace(self):
        energy = tf.reduce_sum(self.images**2, axis=[0, -1])
        for axis in reversed(range(len(energy.shape))):
            energy = tf.reduce_sum(energy * self._coverage(axis), axis=-1)
        return energy / self.groups + self._ones()

    def _coverage(self, axis):
        """Returns how many windows see each pixel along an axis."""
        g, low = self.geometry, self._pads(axis)[0]
        pixels = tf.range(low, low + size(self.images, axis + 1))
        starts = pixels[:, None] - tf.range(g.kernel_size[axis]) * g.dilation[axis]
        windows, stride = self.grid[axis], g.strides[axis]
        seen = (starts % stride == 0) & (starts >= 0) & (starts // stride < windows)
        return tf.reduce_sum(tf.cast(seen, self.dtype), axis=1)

    def gram(self):
        if self._way == "correlation":
            gram = self._correlation_gram()
        elif self._way == "products":
            gram = self._products.gram(self.images)[0]
        else:
            patches = self.matrix().x
            gram = tf32.with_itself(patches, transpose_a=True)
        if not self.bias:
            return gram
        total = tf.reduce_sum(self.images, axis=0, keepdims=True)
        patches = PatchRows(total, self.geometry, bias=False).matrix().x
        sums = tf.reduce_sum(patches, axis=0, keepdims=True)
        return border(gram, sums, tf.cast(self.count, self.dtype))

    def equations_in_float64(self, d):
        def both(rows, d):
            return rows.gram(), tf.concat(rows.multiply_transposed(d), axis=0)

        gram, product = self._add_over_images(both, d)
        return gram, self.split(product)

    def _add_over_images(self, function, d=None, dtype=tf.float64):
        """Returns the sums of `function(patches, d)` over the images, in float64 unless told:
        of Gram matrices and, where `d` is given, of `[features, columns]`.

        It takes one image after the other: that needs little memory, and is rarely done.
        """
        gram = [self.features] * 2
        shapes = [gram if self.groups == 1 else [self.groups, *gram]]
        if d is not None:
            shapes.append([self.features, d.shape[-1]])
            d = tf.reshape(d, [-1, math.prod(self.grid), d.shape[-1]])

        def add(i, *sums):
            patches = self._written_out(tf.cast(tf.gather(self.images, [i]), dtype))
            terms = function(patches, None if d is None else tf.cast(tf.gather(d, i), dtype))
            return (i + 1, *(total + term for total, term in zip(sums, terms)))

        zeros = [tf.zeros(shape, dtype) for shape in shapes]
        count = tf.shape(self.images)[0]
        return tf.while_loop(lambda i, *_: i < count, add, (0, *zeros))[1:]

    def matrix(self):
        # Every pixel that a window sees is gathered at once, by its place in the image.
        images, places = tf.pad(self.images, self._paddings()), 0
        sizes = [size(images, axis + 1) for axis in range(len(self.grid))]
        g, order = self.geometry, len(self.grid)
        for axis in range(order):
            windows = _range(self.grid[axis], axis, 2 * order) * g.strides[axis]
            taps = _range(g.kernel_size[axis], order + axis, 2 * order) * g.dilation[axis]
            places = places * sizes[axis] + windows + taps
        images = tf.reshape(images, [-1, math.prod(sizes), images.shape[-1]])
        patches = tf.gather(images, places, axis=1)
        features = self.features - int(self.bias)
        return MatrixRows(tf.reshape(patches, [-1, features * self.groups]), self.bias)

    def _filters(self, kernel):
        channels = [self.images.shape[-1] // self.groups, kernel.shape[-1]]
        return tf.reshape(kernel, list(self.geometry.kernel_size) + channels)

    def _written_out(self, images):
        """Returns the patches of some of the images, or of all, with the bias's ones."""
        rows = PatchRows(images, self.geometry, self.bias).matrix()
        return MatrixRows(rows.with_ones(), bias=False)

    def _convolve(self, images, kernel):
        return self.geometry.convolve(images, kernel)

    def _correlate(self, d, split):
        """Returns `Σ_p patch(p) d(p)ᵀ` over the windows, `[n, columns]`."""
        d = tf.reshape(d, [-1] + self.grid + [d.shape[-1]])
        return tf32.product(self._filter_gradient, self.images, d, split)

    def _filter_gradient(self, images, d):
        patch = math.prod(self.geometry.kernel_size) * images.shape[-1] // self.groups
        kernel = tf.zeros([patch, d.shape[-1]], self.dtype)
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            z = self._convolve(images, self._filters(kernel))
        return tape.gradient(z, kernel, output_gradients=d)

    def _pads(self, axis):
        return self.geometry.pads(axis, size(self.images, axis + 1))

    def _paddings(self):
        axes = range(len(self.geometry.kernel_size))
        return [[0, 0]] + [list(self._pads(a)) for a in axes] + [[0, 0]]

    @functools.cached_property
    def _phases(self):
        return Phases(self.geometry, self.images.shape[-1])

    def _correlation_gram(self):
        images = self.images
        if self._phases.needed:
            images = self._phases.of(tf.pad(images, self._paddings()), self.grid)
        gram = correlation.gram(images, self._phases.axes(_NOMINAL))
        return self._phases.in_order_of_taps(gram)

    def _patch_cost(self):
        """Multiply-adds per image, including those that stand for writing the patches."""
        kernel = self.features - int(self.bias)
        return self.per_item * (self.groups * kernel**2 + self.matrix_cost)

    def _correlation_cost(self):
        """Multiply-adds per image, counted in those of a matrix product."""
        sizes = self._phases.sizes(self._nominal_lengths())
        here = machine.in_force()
        weight = here.correlation * max(1, here.channels / sizes[-1])
        return weight * correlation.cost(sizes[:-1], sizes[-1], self._phases.axes(_NOMINAL))

    def _nominal_lengths(self):
        return [n or _NOMINAL for n in self.images.shape[1:-1]]


def _range(count, axis, order):
    """Returns `0 … count - 1` along one of `order` axes; by NumPy where the count is known."""
    numbers = np.arange(count, dtype="int32") if isinstance(count, int) else tf.range(count)
    shape = [-1 if a == axis else 1 for a in range(order)]
    return numbers.reshape(shape) if isinstance(count, int) else tf.reshape(numbers, shape)
