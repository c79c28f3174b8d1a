"""Blocks whose weights are no matrix with the output columns last, in one table of cases.

The `A` of a case is the Jacobian of the whole layer with respect to all of its weights at
once, by automatic differentiation; what a block makes of it is not asked, only what comes out.
"""

import functools
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, record_call
from keras import layers

from keras_proxprop.blocks import find_block, layer_scale
from keras_proxprop.keras_seams.recording import Use
from keras_proxprop.keras_seams.unlisted_layers import layer_scale_classes
from keras_proxprop.problem import Member, Problem
from keras_proxprop.solvers import ConjugateGradient, Exact
from keras_proxprop.solvers.gradient import Gradient
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


def test_a_keras_without_layer_scale_is_one_block_less(monkeypatch):
    monkeypatch.delattr(inspect.getmodule(LAYER_SCALE), "LayerScale")
    assert layer_scale_classes() == ()


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


@functools.cache
def case(name):
    return Case(name)


@pytest.mark.parametrize("name", CASES)
def test_block_computes_what_its_layer_computes(name):
    c = case(name)
    assert c.reason is None
    assert [w.path for w in c.block.weights] == [w.path for w in c.weights]
    outputs = c.layer(c.inputs, **c.arguments)
    after = c.layer.get_weights()
    c.layer.set_weights(c.before)
    recorded, uses = record_call(c.block, c.inputs, **c.arguments)
    np.testing.assert_array_equal(recorded, outputs)
    # Statistics included.
    for left, right in zip(c.layer.get_weights(), after):
        np.testing.assert_array_equal(left, right)
    c.layer.set_weights(c.before)
    assert len(uses) == 1


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_jacobian_transposed_times_d(name):
    c = case(name)
    assert_close(c.solve(Gradient()), c.a.T @ c.d.reshape(-1), EXACT)


@pytest.mark.parametrize("name", CASES)
def test_exact_step_is_a_dense_solve_with_the_jacobian(name):
    c = case(name)
    assert_close(c.solve(Exact()), c.expected(), EXACT)


@pytest.mark.parametrize("name", CASES)
def test_conjugate_gradients_come_to_the_exact_step(name):
    c = case(name)
    assert_close(c.solve(ConjugateGradient(30)), c.expected(), 1e-6)


@pytest.mark.parametrize("name", CASES)
def test_rest_is_preconditioned_too(name):
    c = case(name)
    assert_close(c.solve(Exact(), rest=c.rest), c.expected(rest=c.rest), EXACT)


@pytest.mark.parametrize("name", CASES)
def test_two_calls_are_one_problem(name):
    c = case(name)
    assert_close(c.solve(Exact(), calls=2), c.expected(calls=2), EXACT)


def test_calls_in_training_in_inference_and_masked_are_one_problem():
    c = case("batch-norm-masked")
    calls = {"training": True}, {"training": False}, c.arguments
    problem, d = c.record(*calls)
    rows, a = problem.rows(), np.concatenate([c.jacobian(**call)[0] for call in calls])
    parts, _ = problem.solve(rows, [d], [[None] * 2], Exact(), Tau(TAU))
    gradient = a.T @ np.tile(np.reshape(c.d, -1), 3)
    expected = np.linalg.solve(a.T @ a + np.eye(len(gradient)) / TAU, gradient)
    assert_close(np.concatenate(parts[0]), expected, EXACT)
    assert_close(rows.trace(), np.trace(a.T @ a) / problem.columns, EXACT)


@pytest.mark.parametrize("name", [name for name in CASES if "norm" in name or "prelu" in name])
def test_scaling_rows_know_their_products(name):
    c = case(name)
    problem, d = c.record(c.arguments)
    rows = problem.rows()
    assert_close(rows.trace(), np.trace(c.a.T @ c.a) / problem.columns, EXACT)
    p = [tf.reshape(part, [1, -1]) for part in c.rest]
    image = rows.multiply_transposed(rows.multiply(p))
    expected = c.a.T @ c.a @ np.concatenate([np.reshape(part, -1) for part in c.rest])
    assert_close(np.reshape(image, -1), expected, EXACT)
    # The scale alone, where the offset is frozen or not asked for.
    member = problem.members[0]
    alone = Problem([Member(member.block, member.uses, member.weights[:1])])
    tau, columns = Tau(TAU), problem.columns
    (part,), _ = alone.solve(alone.rows(), [d], [[None]], Exact(), tau)
    a = c.a[:, :columns]
    gradient = a.T @ np.reshape(c.d, -1)
    expected = np.linalg.solve(a.T @ a + np.eye(columns) / TAU, gradient)
    assert_close(np.reshape(part[0], -1), expected, EXACT)
    image = alone.rows().multiply_transposed(alone.rows().multiply(p[:1]))
    assert_close(np.reshape(image, -1), a.T @ a @ np.reshape(p[0], -1), EXACT)


@pytest.mark.parametrize(
    "name", ["depthwise2d-same-stride2", "conv2d-groups", "conv1d-groups"]
)
def test_gram_of_patches_is_the_same_image_by_image(name, monkeypatch):
    rows = case(name).problem().rows()
    whole = rows.gram()
    d = tf.zeros([rows.count, rows.groups])
    assert_close(rows.equations_in_float64(d)[0], whole, EXACT)
    monkeypatch.setattr("keras_proxprop.rows.grouped_patches._PATCH_NUMBERS", 0)
    assert_close(tf.function(rows.gram, jit_compile=True)(), whole, EXACT)


def test_embedding_directions_are_as_sparse_as_gradients():
    c = case("embedding")
    problem = c.problem()
    parts, _ = problem.solve(problem.rows(), [[tf.constant(c.d)]], [[None]], Exact(), Tau(TAU))
    assert isinstance(parts[0][0], tf.IndexedSlices)


def test_projections_of_one_tensor_share_a_problem():
    x = tf.random.normal((2, 3, 4), dtype="float64")
    members = []
    for heads in (2, 1):
        layer = layers.EinsumDense("abc,cde->abde", (None, heads, 3), bias_axes="de")
        layer.build(x.shape)
        block = find_block(layer)[0]
        z = layer(x)
        members.append(Member(block, (Use(block, x, z),), tuple(block.weights)))
    (problem,) = Problem.group(members)
    assert problem.columns == 9
    d = [[tf.random.normal(z.shape, dtype="float64")] for z in (m.uses[0].z for m in members)]
    tau, rest = Tau(TAU), [[None, None]] * 2
    together, _ = problem.solve(problem.rows(), d, rest, Exact(), tau)
    for member, own, parts in zip(members, d, together):
        alone = Problem([member])
        (expected,), _ = alone.solve(alone.rows(), [own], rest[:1], Exact(), tau)
        for a, b in zip(parts, expected):
            assert_close(a, b, EXACT)


@pytest.mark.parametrize(
    "name", ["depthwise1d", "conv2d-groups", "einsum-group", "transposed3d"]
)
def test_the_transposed_product_in_float64_is_the_same(name):
    c = case(name)
    rows = c.problem().rows()
    d = c.block.outputs_as_matrix(tf.constant(c.d))
    expected = tf.concat(rows.multiply_transposed(d), 0)
    in_float64 = rows.equations_in_float64(d)[1]
    assert_close(tf.concat(in_float64, 0), expected, EXACT)
