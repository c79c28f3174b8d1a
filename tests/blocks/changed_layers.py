"""Layers that compute otherwise than the blocks of their base classes know, and why."""

import keras
import numpy as np
import tensorflow as tf

layers, ops = keras.layers, keras.ops


class Scaled(layers.Conv2D):
    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel * 10.0)


class Shifted(layers.Conv1D):
    def _compute_causal_padding(self):
        return [[0, 0], [0, 1], [0, 0]]


class Damped(layers.LSTMCell):
    def _compute_carry_and_output_fused(self, z, c_tm1):
        carry, output = super()._compute_carry_and_output_fused(z, c_tm1)
        return carry * 0.1, output


class Residual(layers.StackedRNNCells):
    def call(self, inputs, states, **kwargs):
        output, states = super().call(inputs, states, **kwargs)
        return output + inputs, states


class OwnLoop(layers.LSTM):
    def inner_loop(self, sequences, *args, **kwargs):
        return super().inner_loop(sequences * 2, *args, **kwargs)


class Halved(layers.BatchNormalization):
    def _moments(self, inputs, mask):
        mean, variance = super()._moments(inputs, mask)
        return mean, variance / 4


class Squared(layers.GroupNormalization):
    def _apply_normalization(self, reshaped_inputs, input_shape):
        return super()._apply_normalization(reshaped_inputs, input_shape) ** 3


class Mixed:
    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel**3)


class OfTwo(Mixed, layers.Conv1D):
    pass


class Own(layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 3))

    def scaled(self):
        return self.w

    def call(self, x):
        return ops.matmul(x, self.scaled())


class NotLinear(Own):
    def scaled(self):
        return ops.exp(self.w)


def with_a_method_of_its_own():
    layer = layers.Conv1D(3, 2)
    operation = layer.convolution_op
    layer.convolution_op = lambda inputs, kernel: operation(inputs, kernel * 3)
    return layer


def with_a_call_of_its_own():
    layer = layers.Dense(3)
    call = layer.call
    layer.call = lambda inputs, **kwargs: call(inputs, **kwargs) ** 2
    return layer


def with_a_cell_changed():
    layer = layers.SimpleRNN(3)
    call = layer.cell.call
    layer.cell.call = lambda x, states, **kwargs: call(x * 2, states, **kwargs)
    return layer


CALL = "call() was assigned on the layer"
METHODS = {
    "convolution": (lambda: Scaled(3, 2), (4, 4, 2), "Scaled overrides convolution_op()"),
    "padding": (
        lambda: Shifted(3, 2, padding="causal"),
        (4, 2),
        "Shifted overrides _compute_causal_padding()",
    ),
    "cell": (
        lambda: layers.RNN(Damped(3)),
        (4, 2),
        "Damped overrides _compute_carry_and_output_fused()",
    ),
    "stack": (
        lambda: layers.RNN(Residual([layers.GRUCell(2), layers.GRUCell(2)])),
        (4, 2),
        "Residual overrides call()",
    ),
    "loop": (lambda: OwnLoop(3), (4, 2), "OwnLoop overrides inner_loop()"),
    "moments": (Halved, (4,), "Halved overrides _moments()"),
    "groups": (lambda: Squared(2), (4, 4), "Squared overrides _apply_normalization()"),
    "mixin": (lambda: OfTwo(3, 2), (4, 2), "OfTwo overrides convolution_op()"),
    "registered": (NotLinear, (4,), "NotLinear overrides scaled()"),
    "assigned": (
        with_a_method_of_its_own,
        (4, 2),
        "convolution_op() was assigned on the layer",
    ),
    "assigned-call": (with_a_call_of_its_own, (4,), CALL),
    "assigned-cell": (with_a_cell_changed, (4, 2), CALL),
}


class MaskedKernel(layers.Dense):
    @property
    def kernel(self):
        return self._kernel * np.tri(*self._kernel.shape, dtype="float32")


class ConstantBias(layers.Conv1D):
    def build(self, shape):
        super().build(shape)
        self.bias = tf.ones([3])


class ComputedTable(layers.Embedding):
    @property
    def embeddings(self):
        return ops.tanh(self._embeddings)


class ShiftedScale(layers.LayerNormalization):
    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        return found + 1 if name == "gamma" and found is not None else found


class HalvedSlope(layers.PReLU):
    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        return found / 2 if name == "alpha" and self.built else found


class ComputedState(layers.SimpleRNNCell):
    def build(self, shape):
        super().build(shape)
        self.own = self.recurrent_kernel
        del self.recurrent_kernel

    def __getattr__(self, name):
        if name == "recurrent_kernel":
            return self.own * 2
        raise AttributeError(name)


NO_VARIABLES = {
    "kernel": (lambda: MaskedKernel(3), (4,), "its kernel is no variable"),
    "bias": (lambda: ConstantBias(3, 2), (4, 2), "its bias is no variable"),
    "table": (lambda: ComputedTable(9, 3), (4,), "its embeddings is no variable"),
    "scale": (ShiftedScale, (4,), "its gamma is no variable"),
    "slope": (HalvedSlope, (4,), "its alpha is no variable"),
    "cell": (
        lambda: layers.RNN(ComputedState(3)),
        (4, 2),
        "its recurrent_kernel is no variable",
    ),
}
CASES = {**METHODS, **{f"computed-{key}": case for key, case in NO_VARIABLES.items()}}
