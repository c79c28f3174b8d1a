"""Inverses that memory keeps are made in float32 where that suffices, if they are large or on
a GPU."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close
from tf32_emulation import emulated

from keras_proxprop import machine
from keras_proxprop.solvers import factorization

FLOOR = 1e-5


def rows(kind, n, seed=0):
    """Returns more rows than features, all of float32's numbers."""
    random = np.random.default_rng([seed, n])
    a = random.normal(size=[4 * n, n])
    if kind == "positive":
        a = np.maximum(a + 0.5, 0)
    if kind == "alike":
        a = a[:, :1] + 0.03 * a
    if kind == "equal":
        a[:, 1] = a[:, 0]
    if kind == "scales":
        a *= np.logspace(-3, 3, n)
    return np.float64(np.float32(a))


def gram(kind, n):
    a = rows(kind, n)
    return a.T @ a


def expected(matrix, shift):
    matrix = np.float64(np.float32(matrix)) + shift * np.eye(len(matrix))
    return np.linalg.inv(matrix + FLOOR * np.diag(np.diag(matrix)))


@pytest.fixture
def in_float64(monkeypatch):
    """A list that gets an entry for each stack that float32 does not suffice for."""
    found, original = [], factorization._called_in_float64

    def noted(*args):
        tf.py_function(lambda: found.append(1), [], [])
        return original(*args)

    monkeypatch.setattr(factorization, "_called_in_float64", noted)
    return found


@pytest.fixture
def on_a_gpu(monkeypatch, in_float64):
    """The same list. Products are in TF32."""
    monkeypatch.setattr(machine, "in_force", lambda: machine.GPU)
    with emulated():
        yield in_float64


def inverse(matrices, shift, large=False):
    found = tf.function(factorization.floored_inverse, autograph=False)
    return found(tf.constant(matrices, tf.float32), tf.constant(shift, tf.float32), large)


@pytest.mark.parametrize("n", [1, 7, 65, 200])
@pytest.mark.parametrize("kind", ["normal", "positive", "alike", "scales"])
def test_float32_suffices_for_matrices_of_moderate_condition(kind, n, on_a_gpu):
    matrix = gram(kind, n)
    # As with the default τ.
    shift = 0.1 * np.mean(np.diag(matrix))
    found, damped = inverse(matrix[None], shift)
    right = matrix @ np.random.default_rng(1).normal(size=[n, 3])
    assert_close(np.float64(found[0]) @ right, expected(matrix, shift) @ right, 1e-3)
    assert not damped[0]
    assert not on_a_gpu


@pytest.mark.parametrize("shift", [1e-6, 1e-3])
def test_what_float32_would_lose_is_inverted_in_float64(shift, on_a_gpu):
    matrix = gram("equal", 20)
    found, damped = inverse(matrix[None], shift)
    right = matrix @ np.random.default_rng(1).normal(size=[20, 3])
    exact = expected(matrix, shift) @ right
    assert_close(np.float64(found[0]) @ right, exact, 1e-3)
    assert not damped[0]
    assert len(on_a_gpu) == 1


def test_one_matrix_of_a_stack_is_enough_for_float64(on_a_gpu):
    matrices = np.stack([gram("normal", 12), gram("equal", 12), gram("positive", 12)])
    found, damped = inverse(matrices, 1e-3)
    for each, matrix in zip(found, matrices):
        assert_close(each, expected(matrix, 1e-3), 1e-3)
    assert not np.any(damped)
    assert len(on_a_gpu) == 1


def test_elsewhere_small_ones_are_made_in_float64():
    matrix = gram("alike", 30)
    found, _ = inverse(matrix[None], 1.0)
    assert_close(found[0], expected(matrix, 1.0), 1e-6)


@pytest.mark.parametrize("kind", ["normal", "positive", "alike", "scales", "equal"])
def test_elsewhere_large_ones_are_made_in_float32_where_that_suffices(kind, in_float64):
    a = rows(kind, 520)
    shift = 1e-3 if kind == "equal" else 0.1 * np.mean(a**2) * len(a)
    own, damped = inverse((a.T @ a)[None], shift, large=True)
    right = a.T @ np.random.default_rng(1).normal(size=[len(a), 3])
    assert_close(np.float64(own[0]) @ right, expected(a.T @ a, shift) @ right, 1e-4)
    assert not damped[0]
    assert len(in_float64) == (kind == "equal")


def test_a_gpu_halves_no_matrix(on_a_gpu):
    graph = (
        tf.function(factorization.floored_inverse, autograph=False)
        .get_concrete_function(tf.TensorSpec([1, 300, 300]), tf.TensorSpec([]), False)
        .graph
    )
    types = [op.type for op in graph.get_operations()]
    assert types.count("Cholesky") == types.count("MatrixTriangularSolve") == 1
