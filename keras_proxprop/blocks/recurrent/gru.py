"""The cell of a GRU, whose candidate state is a linear map of its own."""

import keras
import tensorflow as tf

from keras_proxprop.blocks.recurrent.cells import CellBlock
from keras_proxprop.blocks.recurrent.scan import delayed
from keras_proxprop.hiding import hidden
from keras_proxprop.weights import WeightSlice


class GRUCellBlock(CellBlock):
    """`GRUCell`: update and reset gate are one problem, and the candidate is another.

    With `reset_after` the candidate's two products are scaled differently, and each product is
    a problem. Without it, the candidate's recurrent rows are the state times the reset gate.
    """

    layer_classes = (keras.layers.GRUCell,)

    def weights_of_parts(self, kernels, bias):
        u = self.layer.units
        every, gates, candidate = slice(None), slice(0, 2 * u), slice(2 * u, 3 * u)

        def cut(variables, columns, name, rows=every):
            return [WeightSlice(v, (rows, columns)[-len(v.shape) :], name) for v in variables]

        of_gates = cut(kernels, gates, "gates"), cut(bias, gates, "gates")
        if not self.layer.reset_after:
            return [of_gates, [cut(w, candidate, "candidate") for w in (kernels, bias)]]
        kernel, recurrent = cut(kernels, candidate, "candidate")
        return [
            of_gates,
            ([kernel], cut(bias, candidate, "candidate", slice(0, 1))),
            ([recurrent], cut(bias, candidate, "recurrent_candidate", slice(1, 2))),
        ]

    def loop(self, watch, x, states, run):
        loop = self._reset_after if self.layer.reset_after else self._reset_before
        return loop(watch, x, states[0], run)

    def _reset_before(self, watch, x, initial, run):
        cell, u = self.layer, self.layer.units
        zs = list(map(watch, tf.split(self.project(x), [2 * u, u], axis=-1)))
        of_gates, of_candidate = map(self.recurrent, (slice(2 * u), slice(2 * u, None)))

        def step(states, now):
            h, (gates, candidate) = states[0], now
            update, reset = tf.split(cell.recurrent_activation(gates + of_gates(h)), 2, -1)
            h_reset = reset * h
            new = cell.activation(candidate + of_candidate(h_reset))
            return [update * h + (1 - update) * new], [h_reset]

        states, (outputs, h_reset) = run(step, [initial], zs, emitted=2)
        before = delayed(outputs, initial)
        return states, outputs, [[zs[0], x, before], [zs[1], x, h_reset]]

    def _reset_after(self, watch, x, initial, run):
        cell, u = self.layer, self.layer.units
        bias, recurrent_bias = None, tf.zeros([3 * u], x.dtype)
        if cell.bias is not None:
            bias, recurrent_bias = tf.unstack(self.value(cell.bias))
            bias += tf.pad(recurrent_bias[: 2 * u], [[0, u]])
        gates, candidate = tf.split(self.project(x, bias), [2 * u, u], axis=-1)
        # The recurrent product of every step is added to this offset.
        offset = tf.zeros_like(candidate) + hidden([recurrent_bias[2 * u :]])[0]
        zs = [watch(z) for z in (gates, candidate, offset)]
        recurrent = self.recurrent()

        def step(states, now):
            h, (gates, candidate, offset) = states[0], now
            of_gates, of_candidate = tf.split(recurrent(h), [2 * u, u], axis=-1)
            update, reset = tf.split(cell.recurrent_activation(gates + of_gates), 2, -1)
            new = cell.activation(candidate + reset * (offset + of_candidate))
            return [update * h + (1 - update) * new], ()

        states, (outputs,) = run(step, [initial], zs)
        before = delayed(outputs, initial)
        return states, outputs, [[zs[0], x, before], [zs[1], x], [zs[2], before]]
