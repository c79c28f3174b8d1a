"""The table of blocks whose weights are other than such matrices."""

import keras
import numpy as np
import tensorflow as tf
from helpers import record_call
from keras import layers

from keras_proxprop.blocks import find_block, layer_scale
from keras_proxprop.problem import Member, Problem
from keras_proxprop.tau import Tau

EXACT = 1e-9
TAU = 0.7
# Found in Keras by way of a public name: empty where Keras has moved it.
(LAYER_SCALE,) = layer_scale.LayerScaleBlock.layer_classes
MHA = ("abc,cde->abde", (None, 2, 3))
MASK = tf.constant([[True, False], [True, True], [False, True]])
# A new block, or a new way through one, is a row here: layer, input shape, and what it is
# called with besides inputs; `training=True` where nothing is said.
CASES = {
    "einsum-dense": (lambda: layers.EinsumDense("ab,bc->ac", 3, bias_axes="c"), (4, 2)),
    "einsum-heads": (lambda: layers.EinsumDense(*MHA, bias_axes="de"), (2, 3, 2)),
    "einsum-heads-no-bias": (lambda: layers.EinsumDense(*MHA), (2, 3, 2)),
    "einsum-heads-merged": (
        lambda: layers.EinsumDense("abde,dec->abc", (None, 2), bias_axes="c"),
        (2, 2, 2, 3),
    ),
    "einsum-columns-turned": (
        lambda: layers.EinsumDense("abc,edc->abde", (None, 2, 3), bias_axes="de"),
        (2, 2, 3),
    ),
    "einsum-ellipsis": (
        lambda: layers.EinsumDense("...x,xy->...y", 3, bias_axes="y"),
        (2, 2, 3),
    ),
    "einsum-ellipsis-right": (
        lambda: layers.EinsumDense("ab...,bc->ac...", 3, bias_axes="c"),
        (2, 3, 2),
    ),
    "einsum-group": (
        lambda: layers.EinsumDense("abc,bcd->abd", (3, 2), bias_axes="bd"),
        (5, 3, 2),
    ),
    "einsum-group-turned": (
        lambda: layers.EinsumDense("abc,cbd->adb", (2, 3), bias_axes="db"),
        (5, 3, 2),
    ),
    # Inputs and outputs have the same axes.
    "einsum-scale": (
        lambda: layers.EinsumDense("abc,c->abc", (2, 3), bias_axes="c"),
        (4, 2, 3),
    ),
    "einsum-scales": (lambda: layers.EinsumDense("abc,bc->abc", (2, 3)), (4, 2, 3)),
    "einsum-scales-ellipsis": (
        lambda: layers.EinsumDense("...bc,cb->...bc", (2, 3), bias_axes="bc"),
        (4, 2, 3),
    ),
    "batch-norm": (lambda: layers.BatchNormalization(), (6, 3)),
    "batch-norm-synchronized": (lambda: layers.BatchNormalization(synchronized=True), (6, 3)),
    "batch-norm-axis1": (lambda: layers.BatchNormalization(axis=1), (3, 2, 4)),
    "batch-norm-no-scale": (lambda: layers.BatchNormalization(scale=False), (4, 2)),
    "batch-norm-no-center": (lambda: layers.BatchNormalization(center=False), (4, 2)),
    "batch-norm-one-row": (lambda: layers.BatchNormalization(), (1, 3)),
    "batch-norm-inference": (lambda: layers.BatchNormalization(), (4, 2), {"training": False}),
    "batch-norm-masked": (lambda: layers.BatchNormalization(), (3, 2, 4), {"mask": MASK}),
    "batch-norm-renorm": (lambda: layers.BatchNormalization(renorm=True), (6, 3)),
    "layer-norm": (lambda: layers.LayerNormalization(), (3, 2, 4)),
    "layer-norm-axes": (lambda: layers.LayerNormalization(axis=[1, 2]), (4, 3, 2)),
    "layer-norm-axes-turned": (lambda: layers.LayerNormalization(axis=[2, 1]), (4, 3, 2)),
    "group-norm": (lambda: layers.GroupNormalization(2), (2, 3, 4)),
    "rms-norm": (lambda: layers.RMSNormalization(), (3, 4)),
    "layer-scale": (lambda: LAYER_SCALE(0.1, 4), (3, 2, 4)),
    "prelu": (lambda: layers.PReLU(), (4, 2, 3)),
    "prelu-shared": (lambda: layers.PReLU(shared_axes=[1]), (4, 2, 3)),
    "depthwise1d": (lambda: layers.DepthwiseConv1D(3, depth_multiplier=2), (2, 5, 2)),
    "depthwise2d-same-stride2": (
        lambda: layers.DepthwiseConv2D(3, padding="same", strides=2),
        (2, 4, 5, 3),
    ),
    "depthwise2d-dilated": (
        lambda: layers.DepthwiseConv2D((2, 3), dilation_rate=2, use_bias=False),
        (2, 4, 5, 2),
    ),
    "conv2d-groups": (lambda: layers.Conv2D(4, 2, groups=2, padding="same"), (2, 3, 2, 4)),
    "conv1d-groups": (lambda: layers.Conv1D(6, 2, groups=3, use_bias=False), (2, 4, 3)),
    "transposed1d": (lambda: layers.Conv1DTranspose(2, 3), (2, 3, 2)),
    "transposed1d-stride2": (
        lambda: layers.Conv1DTranspose(3, 3, strides=2, padding="same"),
        (2, 3, 2),
    ),
    "transposed1d-stride-above-kernel": (
        lambda: layers.Conv1DTranspose(2, 2, strides=3, padding="same"),
        (2, 3, 2),
    ),
    "transposed2d-output-padding": (
        lambda: layers.Conv2DTranspose(
            2, (3, 2), strides=2, padding="same", output_padding=1, use_bias=False
        ),
        (1, 2, 3, 2),
    ),
    "transposed3d": (lambda: layers.Conv3DTranspose(1, 2, strides=(1, 2, 1)), (1, 2, 2, 2, 2)),
    "embedding": (lambda: layers.Embedding(5, 3), (3, 4)),
}


class Case:
    """A built layer with its block, random inputs, and the Jacobian that they make."""

    def __init__(self, name):
        make, shape, *arguments = CASES[name]
        random = np.random.default_rng(len(name))
        layer = make()
        layer.dtype_policy = keras.DTypePolicy("float64")
        self.integer = isinstance(layer, layers.Embedding)
        self.inputs = tf.constant(random.normal(size=shape))
        if self.integer:
            self.inputs = tf.constant(random.integers(-2, 3, size=shape))
        layer.build(shape)
        layer.set_weights(
            [random.normal(size=w.shape) for w in layer.weights[:2]] + layer.get_weights()[2:]
        )
        self.layer, self.before = layer, layer.get_weights()
        self.arguments = {}
        if isinstance(layer, layers.BatchNormalization):
            self.arguments = {"training": True, **dict(*arguments)}
        self.block, self.reason = find_block(layer)
        self.weights = layer.trainable_weights
        self.a, z = self.jacobian(**self.arguments)
        self.d = random.normal(size=z.shape)
        self.rest = [random.normal(size=w.shape) for w in self.weights]

    def jacobian(self, **arguments):
        """Returns `∂z/∂weights`, `[outputs, all entries of the weights]`, and z."""
        with tf.GradientTape(persistent=True) as tape:
            z = self.layer(self.inputs, **arguments)
        self.layer.set_weights(self.before)
        weights = [w.value for w in self.weights]
        parts = tape.jacobian(z, weights, experimental_use_pfor=False)
        size = int(tf.size(z))
        return np.concatenate(
            [np.reshape(tf.convert_to_tensor(p), [size, -1]) for p in parts], 1
        ), z

    def record(self, *calls):
        """Returns the problem of these calls, arguments of each, on the inputs of the case,
        and `∂L/∂z` of each where `∂L/∂outputs` is the `d` of the case."""
        outputs, uses = [], []
        with tf.GradientTape() as tape:
            for arguments in calls:
                output, noted = record_call(
                    self.block, self.inputs, watch=tape.watch, **arguments
                )
                outputs.append(output)
                uses += noted
                self.layer.set_weights(self.before)
        d = tape.gradient(outputs, [use.z for use in uses], [tf.constant(self.d)] * len(calls))
        return Problem([Member(self.block, tuple(uses), tuple(self.block.weights))]), d

    def problem(self):
        return self.record(self.arguments)[0]

    def solve(self, solver, calls=1, rest=None):
        """Returns the direction, all entries of the weights in one vector."""
        problem, d = self.record(*[self.arguments] * calls)
        rows = problem.rows()
        rest = rest or [None] * len(self.weights)
        parts, damped = problem.solve(rows, [d], [rest], solver, Tau(TAU))
        assert not damped
        return np.concatenate([np.reshape(tf.convert_to_tensor(p), [-1]) for p in parts[0]])

    def expected(self, calls=1, rest=None):
        gradient = calls * self.a.T @ self.d.reshape(-1)
        if rest:
            gradient = gradient + np.concatenate([np.reshape(r, [-1]) for r in rest])
        return np.linalg.solve(
            calls * self.a.T @ self.a + np.eye(len(gradient)) / TAU, gradient
        )
