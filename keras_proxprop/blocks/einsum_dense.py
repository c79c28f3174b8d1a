"""EinsumDense, and the projections of attention layers: a Dense whose axes have names."""

import dataclasses
import functools
import math
import string

import keras
import tensorflow as tf

from keras_proxprop.blocks.base import Block
from keras_proxprop.rows.arrays import nominal_product
from keras_proxprop.rows.groups import rows_in_groups


@dataclasses.dataclass(frozen=True)
class Axes:
    """The letters of an einsum equation, and what each of them is for.

    Attributes:
        inputs, kernel, outputs: the letters of the equation, with ellipses written out.
        row_letters: letters of the inputs and outputs: every index is a row of `A`.
        feature_letters: letters of the inputs and the kernel, which are summed over.
        group_letters: letters of all three: every index is a problem of its own.
        column_letters: letters of the kernel and the outputs.
    """

    inputs: str
    kernel: str
    outputs: str

    @classmethod
    def of(cls, equation, rank):
        """Returns the axes of an equation for inputs of this rank and a kernel."""
        left, outputs = equation.replace(" ", "").split("->")
        inputs, kernel = left.split(",")
        elided = rank - len(inputs.replace("...", ""))
        unused = [c for c in string.ascii_letters if c not in equation]
        letters = "".join(unused[:elided])
        return cls(*(part.replace("...", letters) for part in (inputs, kernel, outputs)))

    @property
    def row_letters(self):
        return self._letters(self.inputs, True, False, True)

    @property
    def feature_letters(self):
        return self._letters(self.inputs, True, True, False)

    @property
    def group_letters(self):
        return self._letters(self.outputs, True, True, True)

    @property
    def column_letters(self):
        return self._letters(self.outputs, False, True, True)

    @property
    def sums_kernel(self):
        """Whether an axis is the kernel's alone, and summed before it meets the inputs."""
        return set(self.kernel) != set(
            self.feature_letters + self.group_letters + self.column_letters
        )

    def _letters(self, order, inputs, kernel, outputs):
        parts = (self.inputs, inputs), (self.kernel, kernel), (self.outputs, outputs)
        return "".join(c for c in order if all((c in p) == held for p, held in parts))


class EinsumDenseBlock(Block):
    """`keras.layers.EinsumDense`: `z = einsum(equation, inputs, kernel) + bias`.

    A bias that runs along other axes than the kernel's steps explicitly.
    """

    layer_classes = (keras.layers.EinsumDense,)

    @functools.cached_property
    def axes(self):
        return Axes.of(self.layer.equation, self.layer.input_spec.ndim)

    @property
    def row_key(self):
        axes = self.axes
        # The columns of groups stand group by group, not kernel by kernel.
        groups = id(self.kernel) if axes.group_letters else None
        return type(self), axes.inputs, axes.row_letters, axes.feature_letters, groups

    @classmethod
    def reason_against(cls, layer):
        why = super().reason_against(layer)
        if why is None and Axes.of(layer.equation, layer.input_spec.ndim).sums_kernel:
            why = "its equation sums the kernel by itself"
        return why

    @property
    def bias(self):
        fits = set(self.layer.bias_axes or "") == set(
            self.axes.group_letters + self.axes.column_letters
        )
        return self.layer.bias if fits else None

    @property
    def columns(self):
        axes = self.axes
        return math.prod(self._length(c) for c in axes.group_letters + axes.column_letters)

    def multiply(self, inputs, kernel):
        return keras.ops.einsum(self.layer.equation, inputs, kernel)

    def finish(self, z):
        # A bias along other axes does not belong to the problem.
        other = self.layer.bias if self.bias is None else None
        return super().finish(z if other is None else z + other)

    def rows(self, inputs, bias):
        axes = self.axes
        order = axes.group_letters + axes.row_letters + axes.feature_letters
        x = tf.einsum(f"{axes.inputs}->{order}", inputs)
        features = math.prod(map(self._length, axes.feature_letters))
        groups = math.prod(map(self._length, axes.group_letters))
        per_item = nominal_product(
            inputs.shape[axes.inputs.index(c)] for c in axes.row_letters[1:]
        )
        return rows_in_groups(tf.reshape(x, [groups, -1, features]), bias, per_item)

    def outputs_as_matrix(self, z):
        axes = self.axes
        return self._matrix(
            z, axes.outputs, axes.row_letters + axes.group_letters + axes.column_letters
        )

    def weight_as_matrix(self, weight, value):
        letters, order = self._orders(weight)
        if weight is self.bias:
            value = tf.reshape(value, [self._length(c) for c in letters])
        return self._matrix(value, letters, order)

    def matrix_as_weight(self, weight, part):
        letters, order = self._orders(weight)
        part = tf.reshape(part, [self._length(c) for c in order])
        part = tf.transpose(part, [order.index(c) for c in letters])
        return tf.reshape(part, weight.shape)

    def _orders(self, weight):
        """Returns the letters of a weight's axes, and their order as a matrix."""
        axes = self.axes
        columns = axes.group_letters + axes.column_letters
        if weight is self.bias:
            return "".join(c for c in axes.outputs if c in columns), columns
        return axes.kernel, axes.feature_letters + columns

    def _matrix(self, value, letters, order):
        value = tf.transpose(value, [letters.index(c) for c in order])
        return tf.reshape(value, [-1, self.columns])

    def _length(self, letter):
        return self.kernel.shape[self.axes.kernel.index(letter)]
