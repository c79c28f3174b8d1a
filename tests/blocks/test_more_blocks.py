"""Blocks whose weights are no matrix with the output columns last, in one table of cases.

The `A` of a case is the Jacobian of the whole layer with respect to all of its weights at
once, by automatic differentiation; what a block makes of it is not asked, only what comes out.
"""

import functools
import inspect

import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, record_call
from keras import layers
from more_block_cases import CASES, EXACT, LAYER_SCALE, TAU, Case

from keras_proxprop.blocks import find_block
from keras_proxprop.keras_seams.notes import Use
from keras_proxprop.keras_seams.unlisted_layers import layer_scale_classes
from keras_proxprop.problem import Member, Problem
from keras_proxprop.solvers import ConjugateGradient, Exact
from keras_proxprop.solvers.gradient import Gradient
from keras_proxprop.tau import Tau


def test_a_keras_without_layer_scale_is_one_block_less(monkeypatch):
    monkeypatch.delattr(inspect.getmodule(LAYER_SCALE), "LayerScale")
    assert layer_scale_classes() == ()


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
