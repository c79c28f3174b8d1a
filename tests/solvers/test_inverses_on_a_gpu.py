"""On a GPU, inverses that memory keeps are made in float32 wherever that suffices."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close
from tf32_emulation import emulated

from keras_proxprop import machine
from keras_proxprop.solvers import factorization

FLOOR = 1e-5


def gram(kind, n, seed=0):
    """Returns the Gram matrix of more rows than features, all of float32's numbers."""
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
    a = np.float64(np.float32(a))
    return a.T @ a


def expected(matrix, shift):
    matrix = np.float64(np.float32(matrix)) + shift * np.eye(len(matrix))
    return np.linalg.inv(matrix + FLOOR * np.diag(np.diag(matrix)))


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Products are in TF32, and the list has an entry for each stack inverted in float64."""
    monkeypatch.setattr(machine, "in_force", lambda: machine.GPU)
    found, original = [], factorization._floored_in_float64

    def noted(*args):
        tf.py_function(lambda: found.append(1), [], [])
        return original(*args)

    monkeypatch.setattr(factorization, "_floored_in_float64", noted)
    with emulated():
        yield found


def inverse(matrices, shift):
    found = tf.function(factorization.floored_inverse, autograph=False)
    return found(tf.constant(matrices, tf.float32), tf.constant(shift, tf.float32), 0)


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


def test_on_other_machines_inverses_are_made_in_float64(monkeypatch):
    matrix = gram("alike", 30)
    found, _ = inverse(matrix[None], 1.0)
    assert_close(found[0], expected(matrix, 1.0), 1e-6)


def test_a_gpu_halves_no_matrix(on_a_gpu):
    graph = (
        tf.function(factorization.floored_inverse, autograph=False)
        .get_concrete_function(tf.TensorSpec([1, 300, 300]), tf.TensorSpec([]), 0)
        .graph
    )
    types = [op.type for op in graph.get_operations()]
    assert types.count("Cholesky") == types.count("MatrixTriangularSolve") == 1
