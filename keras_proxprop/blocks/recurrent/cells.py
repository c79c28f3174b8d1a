"""Recurrent cells: their gates are Dense layers on `[inputs | last state | 1]`.

The columns of kernel, recurrent kernel and bias that make one preactivation are one problem,
whose rows run over batch and time. What is noted as its `z` is the part of the preactivation
that is known before the loop: the loss's gradient with respect to it is the same.
"""

import functools
import math

import keras
import tensorflow as tf

from keras_proxprop.blocks.base import Block, CompositeBlock, product
from keras_proxprop.blocks.recurrent.scan import scan
from keras_proxprop.rows.arrays import working_dtype
from keras_proxprop.rows.matrix import PartitionedRows
from keras_proxprop.weights import WeightSlice

# Why a cell has no step of its own; it may be run with others that have.
FROZEN = "frozen"


class LinearMap(Block):
    """One of a cell's linear maps: `z = [x | h | 1] @ [kernel; recurrent kernel; bias]`.

    Noted as inputs are, in a dict, `features` (what each of the kernels is multiplied by) and
    maybe a `mask`. Any of the weights can be frozen.

    Args:
        layer: the cell.
        kernels: variables, or slices of such, one for each of the features.
        biases: variables, or slices of such.
    """

    def __init__(self, layer, kernels, biases):
        super().__init__(layer)
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
            # A step that is left out is no row.
            a *= inputs["mask"]
        sizes = [math.prod(w.shape) // w.shape[-1] for w in self.weights]
        rows = PartitionedRows(tf.reshape(a, [-1, sum(sizes)]), sizes)
        rows.per_item = a.shape[0] or 1
        return rows


class CellBlock(CompositeBlock):
    """A cell of a recurrent layer, called by a layer in a loop or by itself for one step."""

    def __init__(self, layer):
        bias = [] if layer.bias is None else [layer.bias]
        kernels = [layer.kernel, layer.recurrent_kernel]
        super().__init__(layer, self.linear_maps(layer, kernels, bias))

    @classmethod
    def reason_against(cls, layer):
        if not layer.trainable_variables:
            return FROZEN
        if layer.recurrent_dropout:
            return "recurrent_dropout"
        if layer.dropout and getattr(layer, "implementation", 2) == 1:
            return "dropout with implementation=1, which masks every gate's inputs"
        return None

    @staticmethod
    def linear_maps(cell, kernels, bias):
        """Returns the cell's `LinearMap`s: one, of all columns."""
        return [LinearMap(cell, kernels, bias)]

    def call(self, note, inputs, states, training=False, **_):
        flat = list(states) if keras.tree.is_nested(states) else [states]
        new, _ = self.run(note, inputs[None], flat, training=training, unroll=True)
        return new[0], new if keras.tree.is_nested(states) else new[0]

    def run(self, note, x, states, mask=None, training=False, unroll=False):
        """Runs the cell over the first axis of `x`; what loops in it is `loop`.

        Args:
            note: as in `call`.
            x: inputs, `[time, batch, n]`.
            states: list of initial states.
            mask: boolean tensor, `[time, batch, 1]`, or `None`.

        Returns:
            The last states, and the first state after every step.
        """
        x = tf.cast(x, self.layer.compute_dtype)
        if training and self.layer.dropout:
            x *= self.layer.get_dropout_mask(x[0])
        noted = [{"features": []} for _ in self.parts]
        notes = [functools.partial(note, noted[i], part=i) for i in range(len(noted))]
        run = functools.partial(scan, mask=mask, unroll=unroll)
        states, outputs, features = self.loop(notes, x, states, run)
        # The states are known only now, and what is differentiated was needed before.
        for inputs, of_part in zip(noted, features):
            inputs["features"] += map(tf.stop_gradient, of_part)
            if mask is not None:
                inputs["mask"] = mask
        return states, outputs

    def loop(self, notes, x, states, run):
        """Returns the last states, the first state after every step, and for each of `parts`
        what its kernels were multiplied by.

        Args:
            notes: function of a `z`, for each of `parts`.
            run: `scan`.
        """
        z = notes[0](self.project(x))
        recurrent = self.recurrent()
        initial = states[0]
        states, (outputs,) = run(
            lambda states, now: (self.step(now[0] + recurrent(states[0]), states), ()),
            states,
            [z],
        )
        return states, outputs, [[x, _delayed(outputs, initial)]]

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

        @tf.custom_gradient
        def hidden(h):
            # With the kernel itself, as in `product`, but without a tape inside of the loop.
            return tf.matmul(h, tf.stop_gradient(kernel)), lambda d: tf.matmul(
                d, kernel, transpose_b=True
            )

        return hidden

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


class GRUCellBlock(CellBlock):
    """`GRUCell`: update and reset gate are one problem, and the candidate is another.

    With `reset_after` the candidate's two products are scaled differently, and each is a
    problem of its own; without, its recurrent rows are the state times the reset gate.
    """

    layer_classes = (keras.layers.GRUCell,)

    @staticmethod
    def linear_maps(cell, kernels, bias):
        u = cell.units
        every, gates, candidate = slice(None), slice(0, 2 * u), slice(2 * u, 3 * u)

        def cut(variables, columns, name, rows=every):
            return [WeightSlice(v, (rows, columns)[-len(v.shape) :], name) for v in variables]

        of_gates = cut(kernels, gates, "gates"), cut(bias, gates, "gates")
        if not cell.reset_after:
            of_candidate = (cut(w, candidate, "candidate") for w in (kernels, bias))
            return [LinearMap(cell, *of_gates), LinearMap(cell, *of_candidate)]
        kernel, recurrent = cut(kernels, candidate, "candidate")
        return [
            LinearMap(cell, *of_gates),
            LinearMap(cell, [kernel], cut(bias, candidate, "candidate", slice(0, 1))),
            LinearMap(
                cell,
                [recurrent],
                cut(bias, candidate, "recurrent_candidate", slice(1, 2)),
            ),
        ]

    def loop(self, notes, x, states, run):
        loop = self._reset_after if self.layer.reset_after else self._reset_before
        return loop(notes, x, states[0], run)

    def _reset_before(self, notes, x, initial, run):
        cell, u = self.layer, self.layer.units
        gates, candidate = tf.split(self.project(x), [2 * u, u], axis=-1)
        inputs = [notes[0](gates), notes[1](candidate)]
        of_gates, of_candidate = (
            self.recurrent(slice(2 * u)),
            self.recurrent(slice(2 * u, None)),
        )

        def step(states, now):
            h, (gates, candidate) = states[0], now
            update, reset = tf.split(cell.recurrent_activation(gates + of_gates(h)), 2, -1)
            h_reset = reset * h
            new = cell.activation(candidate + of_candidate(h_reset))
            return [update * h + (1 - update) * new], [h_reset]

        states, (outputs, h_reset) = run(step, [initial], inputs, emitted=2)
        return states, outputs, [[x, _delayed(outputs, initial)], [x, h_reset]]

    def _reset_after(self, notes, x, initial, run):
        cell, u = self.layer, self.layer.units
        bias, recurrent_bias = None, tf.zeros([3 * u], x.dtype)
        if cell.bias is not None:
            bias, recurrent_bias = tf.unstack(self.value(cell.bias))
            bias += tf.pad(recurrent_bias[: 2 * u], [[0, u]])
        gates, candidate = tf.split(self.project(x, bias), [2 * u, u], axis=-1)
        # What the recurrent product is added to, at every step.
        offset = tf.zeros_like(candidate) + tf.stop_gradient(recurrent_bias[2 * u :])
        inputs = [notes[0](gates), notes[1](candidate), notes[2](offset)]
        recurrent = self.recurrent()

        def step(states, now):
            h, (gates, candidate, offset) = states[0], now
            of_gates, of_candidate = tf.split(recurrent(h), [2 * u, u], axis=-1)
            update, reset = tf.split(cell.recurrent_activation(gates + of_gates), 2, -1)
            new = cell.activation(candidate + reset * (offset + of_candidate))
            return [update * h + (1 - update) * new], ()

        states, (outputs,) = run(step, [initial], inputs)
        before = _delayed(outputs, initial)
        return states, outputs, [[x, before], [x], [before]]


def _affine(x, kernel, bias=None):
    z = tf.matmul(x, kernel)
    return z if bias is None else z + bias


def _delayed(states, initial):
    """Returns the states before every step, from those after it."""
    before = tf.concat([initial[None], states[:-1]], axis=0)
    before.set_shape(states.shape)
    return before
