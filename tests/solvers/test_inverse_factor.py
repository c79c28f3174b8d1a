"""The inverse of a Cholesky factor."""

import re

import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close

from keras_proxprop.solvers import inverse_factor as module


def positive_definite(*shape):
    a = np.random.default_rng(0).normal(size=[*shape, 2 * shape[-1]])
    return a @ np.swapaxes(a, -1, -2) / shape[-1]


@tf.function(jit_compile=True)
def inverse_factor(gram, shift):
    return module.inverse_factor(gram, shift, 0.0)


SHAPES = [(1,), (17,), (32,), (90,), (300,), (3, 5), (2, 2, 45)]


# Every shape in both ways, in one dtype in the one and in the other in the other.
@pytest.mark.parametrize(
    "shape, jit_compile, dtype",
    [
        (shape, jit, ["float32", "float64"][(i + jit) % 2])
        for i, shape in enumerate(SHAPES)
        for jit in (False, True)
    ],
    ids=str,
)
def test_inverse_cholesky_is_that_of_numpy(shape, dtype, jit_compile):
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    matrix = positive_definite(*shape)
    found = tf.function(module.inverse_cholesky, jit_compile=jit_compile)(
        tf.constant(matrix, dtype)
    )
    expected = np.linalg.inv(np.linalg.cholesky(matrix))
    assert_close(found, expected, tolerance)
    assert np.all(np.triu(found, 1) == 0)


@pytest.mark.parametrize("n", [1, 64, 65, 130, 257])
def test_a_matrix_of_any_size_has_the_same_inverse_factor(n):
    matrix = positive_definite(n)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float64)])
    def of_any_size(matrix):
        return module.inverse_cholesky(matrix)

    expected = np.linalg.inv(np.linalg.cholesky(matrix))
    assert_close(of_any_size(tf.constant(matrix)), expected, 1e-12)
    assert_close(module.inverse_cholesky(tf.constant(matrix)), expected, 1e-12)


def test_only_what_is_large_is_halved():
    assert {n: module.is_large(n) for n in (1, 512, 513)} == {1: False, 512: False, 513: True}
    matrix = tf.constant(positive_definite(17))
    expected = module.inverse_cholesky(matrix)
    assert_close(module.inverse_cholesky(matrix, large=False), expected, 1e-13)


@pytest.mark.parametrize("n", [64, 200, 500])
def test_xla_on_a_cpu_factorizes_small_blocks_only(n):
    arguments = tf.constant(positive_definite(n)), tf.constant(0.5, tf.float64)
    # A function that was traced without XLA is not the one that XLA compiles.
    module.inverse_factor(*arguments, 0.0)
    text = inverse_factor.experimental_get_compiler_ir(*arguments)(stage="hlo")
    sizes = re.findall(r"f64\[\d+,(\d+),\d+\]\S* cholesky\(", text)
    assert sizes
    assert max(map(int, sizes)) == 32


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("large", [False, True], ids=["whole", "blocks"])
@pytest.mark.parametrize("shape", [(1,), (2,), (33,), (3, 130), (2, 2, 9)], ids=str)
def test_a_factor_times_itself_is_what_numpy_says(shape, large, jit_compile):
    factor = np.tril(np.random.default_rng(0).normal(size=[*shape, shape[-1]]))
    function = tf.function(module.times_itself, jit_compile=jit_compile)
    expected = np.swapaxes(factor, -1, -2) @ factor
    assert_close(function(tf.constant(factor), large), expected, 1e-13)


def test_an_indefinite_matrix_has_no_inverse_factor():
    matrix = positive_definite(6)
    matrix[3, 3] = -1
    assert not inverse_factor(tf.constant(matrix), tf.constant(0.5, tf.float64))[1]


@pytest.mark.parametrize("n", [64, 257, 1100])
def test_halves_of_a_large_matrix_join_to_its_inverse_factor(n):
    matrix = positive_definite(n)
    factor, trusted = inverse_factor(tf.constant(matrix), tf.constant(0.5, tf.float64))
    expected = np.linalg.inv(np.linalg.cholesky(matrix + 0.5 * np.eye(n)))
    assert trusted
    assert_close(factor, expected, 1e-11)
