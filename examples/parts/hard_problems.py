"""Problems on which float32 loses much, and their solutions in float64."""

import typing

import numpy as np
import tensorflow as tf

from keras_proxprop.rows.matrix import MatrixRows
from keras_proxprop.rows.patches import PatchRows
from keras_proxprop.rows.windows import Windows

COLUMNS = 16
# τ in units of 1 over the mean curvature; ten is what "auto" takes.
TAUS = (10, 100, 300, 1e3, 3e3, 1e4, 1e6, 1e12)


def dense(count, inputs, seed=0):
    """Returns `{kind: x}` of inputs `[count, inputs]` that make a Gram matrix hard."""
    random = np.random.default_rng([seed, count, inputs])
    x = random.normal(size=[count, inputs])
    smooth = np.cumsum(np.cumsum(x, axis=1), axis=1)
    half = inputs // 2
    alike = x.copy()
    alike[:, half:] = x[:, : inputs - half] + 1e-3 * x[:, half:]
    basis = np.linalg.qr(random.normal(size=[inputs, inputs]))[0]
    return {
        "normal": x,
        "positive": np.maximum(x, 0) + 1,
        "saturated": 1 / (1 + np.exp(-4 * x)),
        "smooth": smooth / smooth.std(),
        "whole numbers": np.round(random.uniform(0, 255, size=x.shape)),
        "almost white": 255.0 - (random.uniform(size=x.shape) < 0.02),
        "nearly equal columns": alike,
        "decaying spectrum": x @ (basis * np.logspace(0, -5, inputs)) @ basis.T,
        "scales": x * np.logspace(-3, 3, inputs),
        "low rank": x[:, :4] @ random.normal(size=[4, inputs]),
    }


def images(shape, seed=0):
    """Returns `{kind: images}`, `[count, height, width, channels]`."""
    random = np.random.default_rng([seed, *shape])
    noise = random.normal(size=shape)
    blurred = noise
    for _ in range(3):
        blurred = sum(np.roll(blurred, shift, axis) for shift in (0, 1) for axis in (1, 2))
    return {
        "noise": noise,
        "blurred": blurred / blurred.std(),
        "whole numbers": np.round(random.uniform(0, 255, size=shape)),
        "mostly one gray": 0.5 + 0.01 * noise,
    }


class HardRows(typing.NamedTuple):
    """Rows of one kind.

    Attributes:
        form: of the exact step that solves with them.
        rows: `Rows` in float32.
        exact: the same in float64.
    """

    form: str
    rows: typing.Any
    exact: typing.Any


class Problem:
    """One solve, and what it should return.

    Attributes:
        form, rows: as in `HardRows`.
        a: the rows as a matrix in float64.
        d: `D`, in float32.
        shift: 1/τ.
        tau: τ.
        expected: the direction.
    """

    def __init__(self, hard, a, factors, multiple):
        u, s, vt = factors
        self.form, self.rows, self.a = hard.form, hard.rows, a
        random = np.random.default_rng(1)
        self.d = random.normal(size=[len(a), COLUMNS]).astype(np.float32)
        self.shift = np.sum(s**2) / a.shape[1] / multiple
        self.tau = 1 / self.shift
        self.expected = vt.T @ ((s / (s**2 + self.shift))[:, None] * (u.T @ self.d))


def problems(kinds=None):
    """Returns the `Problem`s.

    Args:
        kinds: a slice of the kinds of rows. Defaults to `None`: all.
    """
    found = []
    for hard in _hard_rows()[kinds or slice(None)]:
        a = hard.exact.matrix().with_ones().numpy()
        factors = np.linalg.svd(a, full_matrices=False)
        found += [Problem(hard, a, factors, multiple) for multiple in TAUS]
    return found


def _hard_rows():
    found = []
    for form, count, inputs in (("primal", 2000, 128), ("dual", 64, 300)):
        for x in dense(count, inputs).values():
            found.append(_in_both_types(form, x, lambda x: MatrixRows(x, bias=True)))
    window = Windows((5, 5), (1, 1), (1, 1), "same")
    for shape in ((32, 32, 32, 3), (64, 8, 8, 8)):
        for x in images(shape).values():
            rows = _in_both_types("primal", x, lambda x: PatchRows(x, window, bias=True))
            found.append(rows)
    return found


def _in_both_types(form, x, rows):
    x = tf.constant(x, tf.float32)
    return HardRows(form, rows(x), rows(tf.cast(x, tf.float64)))
