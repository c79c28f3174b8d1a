"""Exact steps on the patches of positive images, in float32, against float64."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close

from keras_proxprop import solvers
from keras_proxprop.blocks import find_block
from keras_proxprop.tau import Tau

COLUMNS = 3


@functools.cache
def images(kind):
    """Returns float32 images, none of whose pixels is negative."""
    random = np.random.default_rng(7)
    if kind == "relu":
        x = tf.constant(random.uniform(size=[8, 32, 32, 3]), tf.float32)
        return keras.layers.Conv2D(6, 3, activation="relu")(x).numpy()
    if kind == "dead, equal and constant":
        x = random.uniform(size=[8, 20, 20, 6])
        x[..., 0], x[..., 1], x[..., 2] = 0, x[..., 3], 0.7
        return np.float32(x)
    # Neighbours are nearly alike, over a quarter of a million rows.
    x = tf.image.resize(random.uniform(size=[20, 14, 14, 1]), [112, 112]).numpy()
    return np.float32({"smooth": x, "bytes": np.round(255 * x), "white": 1 - x / 100}[kind])


@functools.cache
def patches(kind, bias):
    """Returns the rows in float64, zeros around the images written out by NumPy."""
    x = np.pad(np.float64(images(kind)), [(0, 0), (1, 1), (1, 1), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    a = np.moveaxis(windows, 3, -1).reshape(-1, 9 * x.shape[-1])
    return np.column_stack([a, np.ones(len(a))]) if bias else a


@functools.cache
def step(kind, bias, jit_compile):
    """Returns a function of D and τ: the stacked direction, and whether it was damped."""
    layer = keras.layers.Conv2D(COLUMNS, 3, padding="same", use_bias=bias)
    x = tf.constant(images(kind))
    layer.build(x.shape)
    block, _ = find_block(layer)

    def solve(x, d, tau):
        p, damped = solvers.Exact("primal").solve(block.rows(x, bias), d, Tau(tau))
        return tf.concat(p, axis=0), damped

    compiled = tf.function(solve, jit_compile=jit_compile)
    return lambda d, tau: compiled(x, tf.constant(d), tf.constant(tau))


KINDS = ["relu", "dead, equal and constant", "smooth", "bytes", "white"]


# Each kind with and without a bias, and one of these under XLA.
@pytest.mark.parametrize(
    "kind, bias, jit_compile",
    [(kind, bias, i % 2 == bias) for i, kind in enumerate(KINDS) for bias in (False, True)],
)
def test_step_on_positive_images_is_within_a_thousandth_or_damped(kind, bias, jit_compile):
    a = patches(kind, bias)
    u, s, vt = np.linalg.svd(a.T @ a)
    d = np.random.default_rng(8).normal(size=[len(a), COLUMNS]).astype(np.float32)
    right = a.T @ np.float64(d)
    for tau in np.float32([1e-6, 1e-2, 1.0, 1e3]):
        p, damped = step(kind, bias, jit_compile)(d, tau)
        assert np.all(np.isfinite(p))
        if not damped:
            exact = u @ ((u.T @ right) / (s + 1 / np.float64(tau))[:, None])
            assert_close(p, exact, 1e-3)
        assert np.sum(np.float64(p) * right) > 0


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize(("kind", "tau"), [("white", 1e-2), ("dead, equal and constant", 1.0)])
def test_what_float32_lost_little_of_is_refined_and_not_made_again(kind, tau, jit_compile):
    a = patches(kind, bias=True)
    layer = keras.layers.Conv2D(COLUMNS, 3, padding="same")
    x = tf.constant(images(kind))
    layer.build(x.shape)
    block, _ = find_block(layer)
    d = np.random.default_rng(9).normal(size=[len(a), COLUMNS]).astype(np.float32)
    rest = [np.ones([a.shape[1] - 1, COLUMNS]), np.ones([1, COLUMNS])]
    rest = [tf.constant(part, tf.float32) for part in rest]

    def solve(x, d, tau):
        rows = block.rows(x, True)
        gram = rows.gram()
        # What rounding may do at its worst: take half a hundredth from where the matrix is
        # smallest.
        values, vectors = tf.linalg.eigh(gram)
        lost = 0.005 * (values[0] + 1 / tau)
        rows.gram = lambda: gram - lost * vectors[:, :1] * vectors[:, 0]
        nan = tf.constant(np.nan, tf.float64)
        rows.equations_in_float64 = lambda d: (
            tf.fill(gram.shape, nan),
            [tf.cast(part, tf.float64) for part in rows.multiply_transposed(d)],
        )
        p, damped = solvers.Exact("primal").solve(rows, d, Tau(tau), rest)
        return tf.concat(p, axis=0), damped

    compiled = tf.function(solve, jit_compile=jit_compile)
    p, damped = compiled(x, tf.constant(d), tf.constant(np.float32(tau)))
    right = a.T @ np.float64(d) + 1
    assert_close(
        p, np.linalg.solve(a.T @ a + np.eye(a.shape[1]) / np.float32(tau), right), 1e-3
    )
    assert not damped
