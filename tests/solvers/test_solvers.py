"""The solvers against independent dense solves, in NumPy and SciPy, in float64."""

import functools

import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf
from helpers import assert_close
from keras.layers import Conv2D

from keras_proxprop import solvers
from keras_proxprop.blocks import find_block
from keras_proxprop.rows.matrix import MatrixRows
from keras_proxprop.rows.stacked import StackedRows
from keras_proxprop.solvers import price
from keras_proxprop.solvers.auto import Auto
from keras_proxprop.tau import Tau

SOLVERS = {
    "exact": solvers.Exact(),
    "primal": solvers.Exact("primal"),
    "dual": solvers.Exact("dual"),
    "auto": Auto(),
}
# Rows, inputs, columns.
SHAPES = [
    (1, 1, 1),
    (1, 7, 3),
    (7, 1, 3),
    (3, 20, 30),
    (20, 3, 30),
    (9, 9, 2),
    (8, 40, 5),
    (40, 8, 12),
]


class Problem:
    """A random `A`, `D` and rest of the gradient; the bias's ones are `A`'s last column."""

    def __init__(self, count, inputs, columns, bias=True, seed=0):
        random = np.random.default_rng([seed, count, inputs, columns])
        self.x = random.normal(size=[count, inputs])
        self.bias = bias
        self.d = random.normal(size=[count, columns])
        self.rest = random.normal(size=[inputs + bias, columns])

    @property
    def a(self):
        return np.column_stack([self.x, np.ones(len(self.x))]) if self.bias else self.x

    def rows(self, dtype=tf.float64):
        return MatrixRows(tf.constant(self.x, dtype), self.bias)


def split(p, bias):
    return [p[:-1], p[-1:]] if bias else [p]


def direction(solver, rows, d, tau, rest=None, dtype=tf.float64):
    """Returns a solver's direction, stacked to `[features, columns]`, and if it was damped."""
    if rest is not None:
        rest = split(tf.cast(rest, dtype), rows.bias)
    p, damped = solver.solve(rows, tf.cast(d, dtype), Tau(tf.constant(tau, dtype)), rest)
    return tf.concat(p, axis=0), damped


def dense_solve(a, d, tau, rest=0.0):
    """Returns `(AᵀA + I/τ)⁻¹ (AᵀD + rest)` by SciPy."""
    matrix = a.T @ a + np.eye(a.shape[1]) / tau
    return scipy.linalg.solve(matrix, a.T @ d + rest, assume_a="pos")


def svd_solve(a, d, tau):
    """The same by singular values, which no degeneracy of `A` and no `tau` upsets."""
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    return vt.T @ ((s / (s**2 + 1 / tau))[:, None] * (u.T @ d))


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


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("columns", [500, 700, 1501])
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


def unknown(count, features):
    """Returns rows that have a size and no numbers: for questions about costs."""
    with tf.Graph().as_default():
        return MatrixRows(tf.compat.v1.placeholder(tf.float32, [count, features]), False)


def test_auto_takes_the_smaller_matrix():
    assert Auto().choice(unknown(64, 4000), 1000)[0] == "dual"
    assert Auto().choice(unknown(100_000, 100), 16)[0] == "primal"
    assert solvers.Exact().choice(unknown(64, 4000), 1000)[0] == "dual"
    assert solvers.Exact().choice(unknown(100_000, 100), 16)[0] == "primal"


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_smaller_matrix_is_taken_at_run_time_where_the_batch_size_is_unknown(jit_compile):
    def dual_is_taken(x):
        return price.run_cheapest(
            MatrixRows(x, bias=False),
            lambda count: price.exact(MatrixRows(x, bias=False), 6, count),
            lambda form: tf.constant(form == "dual"),
        )

    taken = tf.function(
        dual_is_taken,
        input_signature=[tf.TensorSpec([None, 100], tf.float32)],
        jit_compile=jit_compile,
    )
    assert taken(tf.zeros([8, 100]))
    assert not taken(tf.zeros([500, 100]))


def test_auto_takes_cg_where_both_matrices_are_huge():
    form, price = Auto().choice(unknown(20_000, 20_000), 20)
    exact = solvers.Exact().choice(unknown(20_000, 20_000), 20)[1]
    assert form.startswith("cg")
    assert price < exact / 100


def test_auto_solves_20000_classes_exactly():
    assert Auto().choice(unknown(64, 512), 20_000)[0] == "dual"
