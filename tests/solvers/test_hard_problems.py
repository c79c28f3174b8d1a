"""Problems on which float32, or a Cholesky factor, fails are solved or damped."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close
from solver_cases import SOLVERS, Problem, direction, svd_solve

from keras_proxprop import solvers
from keras_proxprop.rows.matrix import MatrixRows, PartitionedRows
from keras_proxprop.tau import Tau


def hard(count, inputs):
    """Returns inputs of the kinds that make a float32 Gram matrix singular."""
    random = np.random.default_rng(5)
    x = random.normal(size=[count, inputs])
    half = inputs // 2
    duplicated = x.copy()
    duplicated[:, half:] = duplicated[:, : inputs - half]
    dead, constant, dependent = x.copy(), x.copy(), x.copy()
    dead[:, ::2] = 0
    constant[:, ::3] = 0.7
    dependent[:, half:] = x[:, :half] @ random.normal(size=[half, inputs - half])
    pixels = np.round(random.uniform(0, 255, size=[count, inputs]))
    bright = 255 - (random.uniform(size=[count, inputs]) < 0.02)
    return {
        "duplicated": duplicated,
        "dead": dead,
        "constant": constant,
        "dependent": dependent,
        "zero": 0 * x,
        "pixels": pixels,
        "almost-white": bright,
    }


HARD = list(hard(2, 2))


@functools.cache
def traced(name, jit_compile):
    """Returns a float32 step of a named solver that takes any number of rows."""

    def step(x, d, tau):
        solver = SOLVERS.get(name, solvers.ConjugateGradient(5))
        p, damped = solver.solve(MatrixRows(x, bias=True), d, Tau(tau))
        return tf.concat(p, axis=0), damped

    signature = [
        tf.TensorSpec([None, 12], tf.float32),
        tf.TensorSpec([None, 6], tf.float32),
        tf.TensorSpec([], tf.float32),
    ]
    return tf.function(step, input_signature=signature, jit_compile=jit_compile)


@pytest.mark.parametrize("name, count", [("primal", 64), ("dual", 5)])
@pytest.mark.parametrize("layout", ["bias", "no-bias", "two-weights"])
def test_the_rest_is_there_where_a_direction_is_made_again(layout, name, count):
    x = np.float32(hard(count, 12)["duplicated"])
    random = np.random.default_rng(7)
    d, rest = (random.normal(size=[n, 6]).astype(np.float32) for n in (count, 13))
    a = np.column_stack([np.float64(x), np.ones(count)])
    rows, parts = MatrixRows(tf.constant(x), True), [rest[:12], rest[12:]]
    if layout == "no-bias":
        rows, parts, a = MatrixRows(tf.constant(x), False), [rest[:12]], a[:, :12]
    elif layout == "two-weights":
        rows = PartitionedRows(tf.constant(np.float32(a)), [5, 8])
        parts = [rest[:5], rest[5:]]
    again = np.linalg.solve(np.eye(a.shape[1]) / 1e3 + a.T @ a, np.concatenate(parts))
    expected = svd_solve(a, d, 1e3) + again
    step = tf.function(lambda: SOLVERS[name].solve(rows, d, Tau(1e3), parts), autograph=False)
    p, damped = step()
    assert not damped
    assert [len(part) for part in p] == [len(part) for part in parts]
    assert_close(tf.concat(p, axis=0), expected, 1e-4)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("name", ["primal", "dual", "cg"])
@pytest.mark.parametrize("kind", HARD)
def test_hard_inputs_are_solved_or_damped(kind, name, jit_compile):
    step = traced(name, jit_compile)
    for count in (64, 5):
        x = np.float32(hard(count, 12)[kind])
        d = np.random.default_rng(6).normal(size=[count, 6]).astype(np.float32)
        a = np.column_stack([np.float64(x), np.ones(count)])
        # In float32 the larger of the two matrices, which "auto" never takes, is good to
        # the usual step sizes only.
        smaller = "primal" if count > a.shape[1] else "dual"
        for tau in (1e-6, 1e-3, 1.0, 1e3, 1e6):
            p, damped = step(x, d, np.float32(tau))
            assert np.all(np.isfinite(p))
            if name != "cg" and not damped and (name == smaller or tau <= 1):
                assert_close(p, svd_solve(a, d, np.float64(np.float32(tau))), 1e-3)
            # Damped or not, the loss does not grow along it.
            assert np.sum(np.float64(p) * (a.T @ d)) > 0


def two_iterations(matrix, right):
    """Returns what two iterations of conjugate gradients end with, for every column."""
    p, residual, direction = np.zeros_like(right), right, right
    for _ in range(2):
        image = matrix @ direction
        step = np.sum(residual**2, axis=0) / np.sum(direction * image, axis=0)
        p, new = p + step * direction, residual - step * image
        direction = new + np.sum(new**2, axis=0) / np.sum(residual**2, axis=0) * direction
        residual = new
    return p


@pytest.mark.parametrize("with_rest", [False, True], ids=["plain", "rest"])
@pytest.mark.parametrize("scale", [1e2, 1e4, 1e6])
def test_beside_a_row_of_another_scale_without_a_gradient_cg_keeps_the_others_step(
    scale, with_rest
):
    problem = Problem(3, 12, 4)
    problem.x[1] *= scale
    problem.d[1] = 0
    x, d = np.float32(problem.x), np.float32(problem.d)
    a = np.column_stack([np.float64(x), np.ones(3)])
    rest = 1e-3 * np.float32(problem.rest) if with_rest else None
    p, _ = direction(
        solvers.ConjugateGradient(2), problem.rows(tf.float32), d, 0.5, rest, tf.float32
    )
    right = a.T @ np.float64(d) + (rest if with_rest else 0.0)
    assert_close(p, two_iterations(a.T @ a + 2 * np.eye(13), right), 1e-3)


@pytest.mark.parametrize(
    "columns, jit_compile", [(500, False), (700, True), (1501, False), (1501, True)]
)
def test_wide_layers_are_solved_in_float64_a_few_columns_at_a_time(columns, jit_compile):
    problem = Problem(10, 40, columns)
    problem.x = np.float32(problem.x)
    problem.x[5:] = problem.x[:5]
    step = tf.function(direction, jit_compile=jit_compile)
    rest = np.float32(problem.rest)
    for given in (None, rest):
        p, damped = step(
            SOLVERS["dual"], problem.rows(tf.float32), problem.d, 1e4, given, tf.float32
        )
        a = np.float64(problem.a)
        expected = svd_solve(a, np.float64(np.float32(problem.d)), 1e4)
        if given is not None:
            _, s, vt = np.linalg.svd(a)
            eigenvalues = np.pad(s, (0, a.shape[1] - len(s))) ** 2 + 1e-4
            expected += vt.T @ (vt @ np.float64(rest) / eigenvalues[:, None])
        assert_close(p, expected, 1e-5)
        assert not damped


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("name", ["primal", "dual", "auto", "cg"])
def test_unknown_row_count_and_xla_change_nothing(name, jit_compile):
    solver = SOLVERS.get(name, solvers.ConjugateGradient(5))
    for count in (64, 5):
        problem = Problem(count, 12, 6)
        rows = problem.rows(tf.float32)
        static, _ = direction(solver, rows, problem.d, 0.5, dtype=tf.float32)
        x, d = np.float32(problem.x), np.float32(problem.d)
        p, _ = traced(name, jit_compile)(x, d, np.float32(0.5))
        assert_close(p, static, 1e-5)
