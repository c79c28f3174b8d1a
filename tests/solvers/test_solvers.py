"""The solvers against independent dense solves, in NumPy and SciPy, in float64."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close
from keras.layers import Conv2D
from solver_cases import SHAPES, SOLVERS, Problem, dense_solve, direction, unknown

from keras_proxprop import solvers
from keras_proxprop.blocks import find_block
from keras_proxprop.rows.stacked import StackedRows


def cg_per_column(matrix, right, start, iterations):
    """Conjugate gradients of the textbook, for one column after the other."""
    columns = []
    for b, x in zip(right.T, start.T):
        r = b - matrix @ x
        p = r
        for _ in range(iterations):
            alpha = (r @ r) / (p @ matrix @ p)
            x = x + alpha * p
            r_next = r - alpha * (matrix @ p)
            p = r_next + (r_next @ r_next) / (r @ r) * p
            r = r_next
        columns.append(x)
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("name", SOLVERS)
def test_exact_step_solves_the_proximal_problem(name):
    for shape in SHAPES:
        for bias in (True, False):
            for tau in (0.05, 1.0, 30.0):
                problem = Problem(*shape, bias)
                p, damped = direction(SOLVERS[name], problem.rows(), problem.d, tau)
                assert_close(p, dense_solve(problem.a, problem.d, tau), 1e-9)
                assert not damped


@pytest.mark.parametrize("name", SOLVERS)
def test_rest_of_the_gradient_is_preconditioned_with_it(name):
    for shape in SHAPES:
        for bias in (True, False):
            problem = Problem(*shape, bias)
            p, _ = direction(SOLVERS[name], problem.rows(), problem.d, 0.7, problem.rest)
            assert_close(p, dense_solve(problem.a, problem.d, 0.7, problem.rest), 1e-9)


@pytest.mark.parametrize("name", SOLVERS)
def test_float32_step_is_within_1e_4_of_float64(name):
    for shape in SHAPES:
        for rest in (False, True):
            problem = Problem(*shape)
            problem.x, problem.d = np.float32(problem.x), np.float32(problem.d)
            problem.rest *= rest
            p, _ = direction(
                SOLVERS[name],
                problem.rows(tf.float32),
                problem.d,
                1.0,
                problem.rest if rest else None,
                dtype=tf.float32,
            )
            assert p.dtype == tf.float32
            a = np.float64(problem.a)
            assert_close(p, dense_solve(a, problem.d, 1.0, problem.rest), 1e-4)


@pytest.mark.parametrize("name", ["primal", "dual", "auto", "cg"])
@pytest.mark.parametrize("kind", ["convolution", "stacked"])
def test_steps_agree_on_rows_that_are_not_written_out(name, kind):
    random = np.random.default_rng(3)
    layer = Conv2D(4, 3, padding="same", dtype="float64")
    images = tf.constant(random.normal(size=[2, 4, 3, 2]))
    layer.build(images.shape)
    block, _ = find_block(layer)
    rows = block.rows(images, bias=True)
    if kind == "stacked":
        rows = StackedRows([rows, block.rows(images[:1, :, :2], bias=True)])
    x = rows.matrix().x.numpy()
    a = np.column_stack([x, np.ones(len(x))])
    d, rest = random.normal(size=[len(a), 4]), random.normal(size=[a.shape[1], 4])
    solver = SOLVERS.get(name, solvers.ConjugateGradient(2 * a.shape[1]))
    p, _ = direction(solver, rows, d, 0.5, rest)
    assert_close(p, dense_solve(a, d, 0.5, rest), 1e-9)


@pytest.mark.parametrize(
    ("way", "shape"),
    [("gram", (30, 5, 12)), ("rows", (6, 40, 2)), ("dual", (6, 40, 20)), ("dual", (9, 30, 3))],
)
@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
@pytest.mark.parametrize("regularized", [False, True], ids=["plain", "regularized"])
def test_cg_iterations_are_those_of_cg_for_each_column(
    way, shape, iterations, regularized, monkeypatch
):
    problem = Problem(*shape)
    solver = solvers.ConjugateGradient(iterations)
    monkeypatch.setattr(solver, "prices", lambda *_: {way: 1.0})
    rest = problem.rest if regularized else None
    for tau in (0.05, 1.0):
        p, damped = direction(solver, problem.rows(), problem.d, tau, rest)
        matrix = problem.a.T @ problem.a + np.eye(problem.a.shape[1]) / tau
        right = problem.a.T @ problem.d + (0 if rest is None else rest)
        assert_close(p, cg_per_column(matrix, right, np.zeros_like(right), iterations), 1e-9)
        assert not damped


def test_cg_goes_the_way_of_fewest_products():
    def way(count, features, columns, iterations=3):
        prices = solvers.ConjugateGradient(iterations).prices(
            unknown(count, features), columns, count
        )
        return min(prices, key=prices.get)

    assert way(100_000, 50, 100) == "gram"
    assert way(500, 4000, 1000) == "dual"
    assert way(500, 4000, 2) == "rows"


def test_cg_from_zero_is_the_papers_cg_on_the_weights_from_theta():
    # θ⁺ minimizes ½‖Aθ - (z - D)‖² + 1/(2τ) ‖θ - θ_l‖², with z = A θ_l.
    problem, tau = Problem(30, 5, 12), 0.3
    a, theta = problem.a, problem.rest
    matrix = a.T @ a + np.eye(a.shape[1]) / tau
    right = a.T @ (a @ theta - problem.d) + theta / tau
    p, _ = direction(solvers.ConjugateGradient(3), problem.rows(), problem.d, tau)
    assert_close(theta - p, cg_per_column(matrix, right, theta, 3), 1e-9)


@pytest.mark.parametrize("shape", [(30, 5, 12), (6, 9, 2), (1, 1, 1)])
def test_cg_with_as_many_iterations_as_features_is_exact(shape):
    problem = Problem(*shape, bias=False)
    p, _ = direction(solvers.ConjugateGradient(shape[1]), problem.rows(), problem.d, 1.0)
    assert_close(p, dense_solve(problem.a, problem.d, 1.0), 1e-8)


def test_cg_that_has_converged_stays_there():
    problem = Problem(4, 2, 3)
    problem.d[:, 1] = 0
    p, _ = direction(solvers.ConjugateGradient(50), problem.rows(), problem.d, 1.0)
    assert_close(p, dense_solve(problem.a, problem.d, 1.0), 1e-9)


@pytest.mark.parametrize("count, inputs", [(8, 20), (12, 30)])
@pytest.mark.parametrize("tau", [1e2, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("name", ["primal", "dual"])
def test_a_rest_that_nearly_cancels_in_float32_is_solved_in_float64(name, tau, count, inputs):
    problem = Problem(count, inputs, 25, bias=False)
    problem.x, problem.d = (
        part.astype("float32").astype("float64") for part in (problem.x, problem.d)
    )
    # In the range of Aᵀ, where τ rest is all but cancelled.
    rest = problem.a.T @ np.random.default_rng(1).normal(size=[count, 25])
    rest = rest.astype("float32").astype("float64")
    rows, solver = problem.rows(tf.float32), SOLVERS[name]
    found, damped = direction(solver, rows, problem.d, tau, rest, tf.float32)
    matrix = problem.a.T @ problem.a + np.eye(inputs) / tau
    expected = np.linalg.solve(matrix, problem.a.T @ problem.d + rest)
    assert_close(found, expected, 1e-3)
    assert not damped
