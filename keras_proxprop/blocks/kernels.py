"""Layers with kernels of their own, and anything between these."""

import keras
import tensorflow as tf

from keras_proxprop.blocks.base import CompositeBlock
from keras_proxprop.blocks.einsum_dense import Axes, EinsumDenseBlock
from keras_proxprop.keras_seams.layers import is_rematerialized, own_variables
from keras_proxprop.keras_seams.products import watched


class KernelsBlock(CompositeBlock):
    """A layer that multiplies tensors by kernels of its own, a problem for every kernel.

    The products are those with `keras.ops.einsum` and `keras.ops.matmul` in the layer's own
    `call`, which may do anything before, between and after them: the experts of language
    models are of this kind. Kernels are the layer's own weights of two axes and more. All else
    steps explicitly: biases, kernels that are cast, sliced or multiplied with each other
    before, and weights of other products.
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
        known = isinstance(inputs, tf.Tensor) and inputs.shape.rank is not None
        if place is None or not known or not self.parts[place].fits(equation, inputs):
            return None
        for block in note.blocks:
            block.parts[place].set_equation(equation, inputs)
        return self.parts[place].call(note.of_part(place), inputs)


class KernelPart(EinsumDenseBlock):
    """The products by one kernel, an `EinsumDense` without a bias.

    What its axes are shows when the layer is called.

    Args:
        layer, whole: as for `Block`.
        kernel: the variable.
    """

    equation = axes = kernel = bias = None

    def __init__(self, layer, whole, kernel):
        super().__init__(layer, whole)
        self.kernel = kernel

    def fits(self, equation, inputs):
        """Returns whether a product is linear in the kernel, one map with those before it."""
        left, arrow, outputs = equation.partition("->")
        if not arrow or "." in left.split(",")[1]:
            return False
        axes = Axes.of(equation, len(inputs.shape))
        letters = axes.inputs, axes.kernel, axes.outputs
        if any(len(set(part)) < len(part) for part in letters) or axes.sums_kernel:
            return False
        return bool(axes.rows) and self.axes in (None, axes)

    def set_equation(self, equation, inputs):
        self.equation, self.axes = equation, Axes.of(equation, len(inputs.shape))

    def multiply(self, inputs, kernel):
        return keras.ops.einsum(self.equation, inputs, kernel)

    def finish(self, z):
        return z


def _kernels(layer):
    return [w for w in own_variables(layer) if len(w.shape) > 1 and w.trainable]


def _exchanged(equation):
    """Returns the equation for the operands in the other order."""
    left, arrow, outputs = equation.partition("->")
    first, second = left.split(",")
    return f"{second},{first}{arrow}{outputs}"
