"""Layers with several kernels, and any operations between the products with them."""

import keras
import tensorflow as tf

from keras_proxprop.blocks.base import Block, CompositeBlock
from keras_proxprop.blocks.einsum_dense import Axes, EinsumDenseBlock
from keras_proxprop.keras_seams.layers import is_rematerialized, own_variables
from keras_proxprop.keras_seams.products import watched


class KernelsBlock(CompositeBlock):
    """A layer that multiplies tensors by kernels of its own. Every kernel is a problem.

    The products are those by `keras.ops.einsum` and `keras.ops.matmul` in the layer's own
    `call`, which may do anything before, between and after them. The experts of language
    models are such layers. Kernels are the layer's own weights of two axes or more. All other
    weights step explicitly: biases, weights of other products, and kernels that are cast,
    sliced or multiplied with each other before their product.

    Example:

    >>> keras_proxprop.register_block(MyExperts, keras_proxprop.blocks.KernelsBlock)
    """

    def make_parts(self):
        kernels = _kernels(self.layer)
        return [KernelPart(self.layer, self.whole, kernel) for kernel in kernels]

    @classmethod
    def reason_against(cls, layer):
        if is_rematerialized(layer):
            return "rematerialized"
        return None if _kernels(layer) else "its kernel is frozen"

    def call(self, note, *args, **kwargs):
        def seen(equation, *operands):
            return self._product(note, equation, *operands)

        with watched(seen):
            return type(self.layer).call(self.layer, *args, **kwargs)

    def _product(self, note, equation, inputs, kernel):
        """Returns the product of a tensor and a kernel, noted; `None` for any other."""
        index = {id(part.kernel): i for i, part in enumerate(self.parts)}
        if id(inputs) in index:
            equation, inputs, kernel = _exchanged(equation), kernel, inputs
        place = index.get(id(kernel))
        rank = inputs.shape.rank if isinstance(inputs, tf.Tensor) else None
        if place is None or rank is None:
            return None
        maps = [block.parts[place].map_of(equation, rank) for block in note.blocks]
        return None if None in maps else maps[0].call(note.of(maps), inputs)


class KernelPart(Block):
    """One kernel of a layer, and the linear map of the layer's products with the kernel.

    Args:
        layer, whole: as for `Block`.
        kernel: the variable.
    """

    kernel = bias = None

    def __init__(self, layer, whole, kernel):
        super().__init__(layer, whole)
        self.kernel = kernel
        # What each axis is for is known when the layer is called.
        self._map = None

    def map_of(self, equation, rank):
        """Returns the `KernelMap` of a product with inputs of this rank, or `None` where the
        product is not linear in the kernel, or where an earlier product was another map."""
        left, arrow, _ = equation.partition("->")
        if not arrow or "." in left.split(",")[1]:
            return None
        axes = Axes.of(equation, rank)
        letters = axes.inputs, axes.kernel, axes.outputs
        if any(len(set(part)) < len(part) for part in letters) or axes.sums_kernel:
            return None
        if not axes.row_letters:
            return None
        if self._map is None:
            self._map = KernelMap(self, equation, axes)
        return self._map if self._map.axes == axes else None


class KernelMap(EinsumDenseBlock):
    """The products with one kernel: an `EinsumDense` without a bias.

    Args:
        part: `KernelPart`.
        equation: einsum equation of the products.
        axes: the equation's `Axes`.
    """

    axes = kernel = bias = None

    def __init__(self, part, equation, axes):
        super().__init__(part.layer, part.whole)
        self.kernel, self.axes = part.kernel, axes
        self._equation = equation

    def multiply(self, inputs, kernel):
        return keras.ops.einsum(self._equation, inputs, kernel)

    def finish(self, z):
        return z


def _kernels(layer):
    return [w for w in own_variables(layer) if len(w.shape) > 1 and w.trainable]


def _exchanged(equation):
    """Returns the equation for the operands in the other order."""
    left, arrow, outputs = equation.partition("->")
    first, second = left.split(",")
    return f"{second},{first}{arrow}{outputs}"
