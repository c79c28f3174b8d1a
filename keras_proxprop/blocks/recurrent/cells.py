"""Recurrent cells: their gates are Dense layers on `[inputs | last state | 1]`.

The columns of kernel, recurrent kernel and bias that make one preactivation are one problem,
whose rows run over batch and time. The part of the preactivation that is known before the loop
is noted as `z`: the loss has the same gradient with respect to this part.
"""

import functools
import math

import keras
import tensorflow as tf

from keras_proxprop.blocks.base import Block, CompositeBlock, reason_of_no_variable
from keras_proxprop.blocks.product import product
from keras_proxprop.blocks.recurrent.scan import delayed, scan
from keras_proxprop.hiding import hidden, recording_tapes
from keras_proxprop.keras_seams.custom_gradient import custom_gradient
from keras_proxprop.rows.arrays import working_dtype
from keras_proxprop.rows.matrix import PartitionedRows

# Why a cell takes no implicit step. It may run in one layer with cells that do.
FROZEN = "frozen"


class LinearMap(Block):
    """One of a cell's linear maps: `z = [x | h | 1] @ [kernel; recurrent kernel; bias]`.

    What is noted as inputs is a dict with `features` (the factor of each kernel) and maybe a
    `mask`. Any of the weights can be frozen.

    Args:
        layer, whole, reported_as: as in `Block`, for the cell.
        kernels: variables, or slices of variables, one for each of the features.
        biases: variables, or slices of variables.
    """

    in_loop = True

    def __init__(self, layer, whole, reported_as, kernels, biases):
        super().__init__(layer, whole, reported_as)
        self._kernels, self._biases = kernels, biases

    @property
    def weights(self):
        return [w for w in (*self._kernels, *self._biases) if w.trainable]

    @property
    def columns(self):
        return self._kernels[0].shape[-1]

    def solves_for(self, weights):
        return len(weights) == len(self.weights)

    def prepare(self, inputs):
        dtype = working_dtype(inputs["features"][0].dtype)
        return tf.nest.map_structure(lambda x: tf.cast(x, dtype), inputs)

    def rows(self, inputs, bias):
        features = inputs["features"]
        used = [x for x, kernel in zip(features, self._kernels) if kernel.trainable]
        ones = tf.ones_like(features[0][..., :1])
        for b in self._biases:
            used += [ones] * (b.trainable * (math.prod(b.shape) // b.shape[-1]))
        a = tf.concat(used, axis=-1)
        if "mask" in inputs:
            # A step that the mask leaves out is no row.
            a *= inputs["mask"]
        sizes = [math.prod(w.shape) // w.shape[-1] for w in self.weights]
        return PartitionedRows(tf.reshape(a, [-1, sum(sizes)]), sizes, a.shape[0] or 1)


class CellBlock(CompositeBlock):
    """A cell of a recurrent layer, called by a layer in a loop or by itself for one step."""

    def make_parts(self):
        layer = self.layer
        bias = [] if layer.bias is None else [layer.bias]
        return [
            LinearMap(layer, self.whole, self.reported_as, *weights)
            for weights in self.weights_of_parts([layer.kernel, layer.recurrent_kernel], bias)
        ]

    @classmethod
    def reason_against(cls, layer):
        if not layer.trainable_variables:
            return FROZEN
        if layer.recurrent_dropout:
            return "recurrent_dropout"
        if layer.dropout and getattr(layer, "implementation", 2) == 1:
            return "dropout with implementation=1, which masks every gate's inputs"
        return reason_of_no_variable(layer, ("kernel", "recurrent_kernel", "bias"))

    def weights_of_parts(self, kernels, bias):
        """Returns the kernels and biases of every linear map. Here one map has all columns."""
        return [(kernels, bias)]

    def call(self, note, inputs, states, training=False, **_):
        flat = list(states) if keras.tree.is_nested(states) else [states]
        notes = [note.of_part(i) for i in range(len(self.parts))]
        new, _ = self.run(notes, inputs[None], flat, training=training, unroll=True)
        return new[0], new if keras.tree.is_nested(states) else new[0]

    def run(self, notes, x, states, mask=None, training=False, unroll=False):
        """Runs the cell over the first axis of `x`, in `loop`.

        Args:
            notes: the `Note` of each of `parts`.
            x: inputs, `[time, batch, n]`.
            states: list of initial states.
            mask: boolean tensor, `[time, batch, 1]`, or `None`.

        Returns:
            The last states, and the first state after every step.
        """
        x = tf.cast(x, self.layer.compute_dtype)
        if training and self.layer.dropout:
            x *= self.layer.get_dropout_mask(x[0])
        run = functools.partial(scan, mask=mask, unroll=unroll)
        states, outputs, maps = self.loop(notes[0].watch, x, states, run)
        # The states are features, too, and are known only after the loop.
        masked = {} if mask is None else {"mask": mask}
        for note, (z, *features) in zip(notes, maps):
            note({"features": features, **masked}, z)
        return states, outputs

    def loop(self, watch, x, states, run):
        """Returns the last states, the first state after every step, and for each of `parts`
        its `z` and the factors of its kernels.

        Args:
            watch: function to call with every `z` before `z` is used; it returns `z`.
            run: `scan`.
        """
        z = watch(self.project(x))
        recurrent = self.recurrent()
        initial = states[0]
        states, (outputs,) = run(
            lambda states, now: (self.step(now[0] + recurrent(states[0]), states), ()),
            states,
            [z],
        )
        return states, outputs, [[z, x, delayed(outputs, initial)]]

    def step(self, z, states):
        """Returns the new states, from the preactivations."""
        raise NotImplementedError

    def project(self, x, bias=None):
        """Returns `x @ kernel + bias`, the weights hidden from the tape."""
        if bias is None and self.layer.bias is not None:
            bias = self.value(self.layer.bias)
        values = [self.value(self.layer.kernel)] + ([] if bias is None else [bias])
        return product(_affine, x, values)

    def recurrent(self, columns=slice(None)):
        """Returns the function `h @ recurrent_kernel`, the weights hidden from the tape."""
        kernel = self.value(self.layer.recurrent_kernel)[:, columns]
        recording, reads = recording_tapes(), hidden([kernel])

        @custom_gradient
        def apart(h, read):
            def gradient(d):
                # Made with the kernel itself, as in `product`, but with no tape in the loop.
                asked = any(tape.asked for tape in recording)
                other = None if asked else tf.matmul(h, d, transpose_a=True)
                return tf.matmul(d, kernel, transpose_b=True), other

            return tf.matmul(h, read), gradient

        return lambda h: apart(h, *reads)

    def value(self, variable):
        return tf.cast(tf.convert_to_tensor(variable), self.layer.compute_dtype)


class SimpleRNNCellBlock(CellBlock):
    """`SimpleRNNCell`."""

    layer_classes = (keras.layers.SimpleRNNCell,)

    def step(self, z, states):
        activation = self.layer.activation
        return [z if activation is None else activation(z)]


class LSTMCellBlock(CellBlock):
    """`LSTMCell`: the four gates are columns of one problem."""

    layer_classes = (keras.layers.LSTMCell,)

    def step(self, z, states):
        cell = self.layer
        i, f, c, o = tf.split(z, 4, axis=-1)
        carry = cell.recurrent_activation(f) * states[1]
        carry += cell.recurrent_activation(i) * cell.activation(c)
        return [cell.recurrent_activation(o) * cell.activation(carry), carry]


def _affine(x, kernel, bias=None):
    z = tf.matmul(x, kernel)
    return z if bias is None else z + bias
