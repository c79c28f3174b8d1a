"""Directions are as exact where TensorFlow multiplies in TF32 as where it does not."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, relative_error
from keras import layers
from tf32_emulation import emulated, rounded

from keras_proxprop import tf32, xla
from keras_proxprop.blocks import find_block
from keras_proxprop.memory.averaged_gram import Kept
from keras_proxprop.rows.matrix import MatrixRows
from keras_proxprop.rows.one_hot import OneHotRows
from keras_proxprop.rows.tied import TiedRows
from keras_proxprop.solvers import ConjugateGradient, Exact, exact, factorization
from keras_proxprop.tau import Tau

COLUMNS = 8
# What float32 itself may lose three times of, or this much.
ENOUGH = 1e-3


def positive(*shape):
    return np.maximum(np.random.default_rng(1).normal(size=shape) + 0.3, 0)


def smooth(*shape):
    coarse = np.random.default_rng(2).uniform(size=[shape[0], 6, 6, shape[-1]])
    return tf.image.resize(coarse, shape[1:-1]).numpy()


# A layer, and its inputs.
CASES = {
    "dense": (layers.Dense(COLUMNS), positive(200, 60)),
    "dense-few-rows": (layers.Dense(COLUMNS), positive(40, 300)),
    "dense-along-sequences": (layers.Dense(COLUMNS), positive(8, 50, 30)),
    "einsum": (layers.EinsumDense("abc,cd->abd", (None, COLUMNS)), positive(8, 16, 32)),
    "convolution": (layers.Conv2D(COLUMNS, 5, padding="same"), smooth(16, 24, 24, 3)),
    "strides": (layers.Conv2D(COLUMNS, 3, 2, padding="same"), smooth(16, 24, 24, 3)),
    "pixels": (layers.Conv2D(COLUMNS, 1), smooth(16, 20, 20, 7)),
    "few-pixels": (layers.Conv2D(COLUMNS, 3, padding="same"), positive(16, 4, 4, 20)),
    "causal": (layers.Conv1D(COLUMNS, 3, padding="causal"), positive(16, 40, 6)),
    "volumes": (layers.Conv3D(COLUMNS, 3), positive(4, 9, 9, 9, 3)),
    "groups": (layers.Conv2D(COLUMNS, 3, groups=2), smooth(4, 8, 8, 4)),
    "depthwise": (layers.DepthwiseConv2D(3), smooth(8, 8, 8, COLUMNS)),
}


def solved(name, solver, tau, dtype=tf.float32):
    """Returns the direction of a layer, stacked, with a `D` that is float32 in any dtype."""
    layer, x = CASES[name]
    x = tf.constant(np.float32(x))
    if not layer.built:
        layer.build(x.shape)
    rows = find_block(layer)[0].rows(tf.cast(x, dtype), True)
    d = np.random.default_rng(3).normal(size=[int(rows.count), COLUMNS]) / len(x)
    p, _ = solver(rows).solve(rows, tf.cast(np.float32(d), dtype), Tau(tau))
    return np.concatenate([np.asarray(part) for part in p])


def kept(rows):
    """Returns a solver with an inverse that is at hand, as memory has it."""
    gram = tf.cast(rows.gram(), tf.float64)
    # As where τ is "auto".
    shift = 0.1 * tf.reduce_mean(tf.linalg.diag_part(gram))
    shift *= tf.eye(gram.shape[-1], dtype=gram.dtype)
    return Kept(tf.cast(tf.linalg.inv(gram + shift), rows.dtype))


SOLVERS = {
    "primal": lambda rows: Exact("primal"),
    "dual": lambda rows: Exact("dual"),
    "memory": kept,
    "cg": lambda rows: ConjugateGradient(3),
}
# Several groups of columns have no dual form. What is at hand was made for one τ.
PROBLEMS = [
    (name, form, tau)
    for name in CASES
    for form, taus in {
        "primal": ["auto", 1.0, 100.0],
        "dual": ["auto", 1.0],
        "memory": ["auto"],
        "cg": ["auto"],
    }.items()
    for tau in taus
    if form != "dual" or name.startswith(("dense", "einsum"))
]


@pytest.fixture
def in_float64(monkeypatch):
    """The list of layers whose Gram matrix was made again in float64."""
    found, original = [], factorization._in_float64

    def noted(*args):
        # Traced where a branch is traced, and run where it is taken.
        tf.py_function(lambda: found.append(1), [], [])
        return original(*args)

    monkeypatch.setattr(factorization, "_in_float64", noted)
    # A trace of its own, which other tests do not meet.
    fresh = xla.traced_once(exact._checked.__wrapped__)
    monkeypatch.setattr(exact, "_checked", fresh)
    return found


@pytest.mark.parametrize(("name", "form", "tau"), PROBLEMS)
def test_directions_are_as_exact_as_in_float32(name, form, tau, in_float64):
    exact = solved(name, SOLVERS[form], tau, tf.float64)
    own = relative_error(solved(name, SOLVERS[form], tau), exact)
    falls = len(in_float64)
    with emulated():
        found = solved(name, SOLVERS[form], tau)
    assert_close(found, exact, max(3 * own, ENOUGH))
    assert len(in_float64) == 2 * falls


@pytest.mark.parametrize("name", ["dense", "convolution", "few-pixels", "volumes", "groups"])
def test_without_parts_of_operands_directions_would_be_rounded(name):
    exact = solved(name, SOLVERS["primal"], "auto", tf.float64)
    with emulated(noticed=False):
        found = solved(name, SOLVERS["primal"], "auto")
    assert relative_error(found, exact) > 5e-4


@pytest.mark.parametrize("lookups", [True, False])
def test_a_tied_embedding_is_as_exact_as_in_float32(lookups):
    random = np.random.default_rng(4)
    states = np.float32(random.normal(size=[300, 12]))
    d = np.float32(random.normal(size=[300 * 20 + lookups * 40 * 12, 1]))

    def direction(dtype):
        uses = [MatrixRows(tf.constant(states, dtype), False)]
        if lookups:
            uses = [OneHotRows(tf.range(40) % 7, 20, tf.as_dtype(dtype)), *uses]
        (p,), _ = TiedRows(uses, (20, 12)).solve(
            tf.constant(d, dtype), tf.constant(0.05, dtype)
        )
        return p

    exact, own = direction(tf.float64), direction(tf.float32)
    with emulated():
        found = direction(tf.float32)
    assert_close(found, exact, max(3 * relative_error(own, exact), 1e-5))


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_parts_add_up_and_the_first_of_them_is_not_rounded(jit_compile):
    scales = 10.0 ** np.random.default_rng(5).uniform(-30, 30, size=1000)
    x = np.float32(np.random.default_rng(6).normal(size=1000) * scales)
    large, small = tf.function(tf32._parts, jit_compile=jit_compile)(tf.constant(x))
    assert np.array_equal(large + small, x)
    assert np.array_equal(rounded(large), large)
    assert np.all(np.abs(small) <= 2.0**-11 * np.abs(x))


@pytest.mark.parametrize("shape", [(3, 5), (200, 40), (4, 30, 7)])
def test_products_are_as_exact_as_in_float32(shape):
    x = np.float32(np.random.default_rng(7).normal(size=shape))
    other = np.float32(np.random.default_rng(8).normal(size=[*shape[:-2], shape[-1], 6]))
    transposed = np.swapaxes(np.float64(x), -1, -2)
    ones = np.ones([6, 1], np.float32)
    with emulated():
        product = tf32.matmul(x, other)
        squares = [
            tf32.with_itself(x, **{way: True}) for way in ("transpose_a", "transpose_b")
        ]
        sums = tf32.selected(lambda part: tf.matmul(part, ones), tf.constant(other))
    assert_close(product, np.float64(x) @ other, 1e-6)
    assert_close(squares[0], transposed @ x, 1e-6)
    assert_close(squares[1], x @ transposed, 1e-6)
    assert_close(sums, np.sum(np.float64(other), -1, keepdims=True), 1e-6)


@pytest.mark.parametrize("split", [1, 2])
def test_products_of_parts_have_the_derivative_of_a_product(split):
    random = np.random.default_rng(9)
    a, b, weights = (random.normal(size=shape) for shape in ([20, 9], [9, 6], [20, 6]))
    variables = [tf.Variable(np.float32(x)) for x in (a, b)]
    with emulated(), tf.GradientTape() as tape:
        value = tf.reduce_sum(tf32.matmul(*variables, split=split) * np.float32(weights))
    found = tape.gradient(value, variables)
    for gradient, expected in zip(found, (weights @ b.T, a.T @ weights)):
        assert_close(gradient, expected, 1e-3)
