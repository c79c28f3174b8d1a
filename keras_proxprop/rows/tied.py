"""Rows of one matrix that is looked up in, and that states are projected onto."""

import math

import tensorflow as tf

from keras_proxprop import replicas, tf32
from keras_proxprop.rows.base import Rows
from keras_proxprop.rows.matrix import MatrixRows
from keras_proxprop.rows.one_hot import OneHotRows

# The largest condition number at which float32 loses less than a thousandth of a solution.
_TRUSTED = 5e3


class TiedRows(Rows):
    """Lookups in a matrix `E`, and projections onto it, `h Eᵀ`.

    A direction is one matrix like `E`. Its row `p_v` solves a problem of its own:

        (HᵀH + (n_v + 1/τ) I) p_v = g_v

    where `n_v` is the number of times that token `v` is looked up, and the rows of `H` are the
    projected states. The eigenvectors of `HᵀH` solve the problems of all tokens at once.

    Args:
        uses: `OneHotRows` and `MatrixRows` (of the states), one for each call.
        shape: the matrix's shape.
    """

    closed_form = True

    def __init__(self, uses, shape):
        self.uses, self.shape = uses, shape
        per_item = sum(use.per_item * self._entries_of_row(use) for use in uses)
        super().__init__(False, math.prod(shape), uses[0].dtype, per_item)
        tokens, width = shape
        self.closed_traffic = tokens + width * (width + 1) // 2

    @property
    def entries(self):
        # A row of a projection has this many, and a row of a lookup has one.
        return self.shape[1]

    def _entries_of_row(self, use):
        return self.shape[1 if isinstance(use, OneHotRows) else 0]

    def _count(self, use):
        return use.count * self._entries_of_row(use)

    @property
    def labels_per_item(self):
        projections = [use for use in self.uses if isinstance(use, MatrixRows)]
        return sum(use.per_item for use in projections) or 1

    @property
    def count(self):
        return sum(map(self._count, self.uses))

    @property
    def _lookups(self):
        found = [use for use in self.uses if isinstance(use, OneHotRows)]
        return OneHotRows.stack(found) if found else None

    def _split(self, d):
        """Returns the parts of `D` that belong to lookups and to states, as matrices."""
        pieces = tf.split(tf.reshape(d, [-1]), [self._count(use) for use in self.uses])
        of_lookups, of_states = [], []
        for use, piece in zip(self.uses, pieces):
            if isinstance(use, OneHotRows):
                of_lookups.append(tf.reshape(piece, [-1, self.shape[1]]))
            else:
                of_states.append(tf.reshape(piece, [-1, self.shape[0]]))
        return of_lookups, of_states

    def multiply(self, direction):
        matrix = tf.convert_to_tensor(direction[0])
        products = [
            use.multiply([matrix if isinstance(use, OneHotRows) else tf.transpose(matrix)])
            for use in self.uses
        ]
        return tf.concat([tf.reshape(p, [-1, 1]) for p in products], 0)

    def multiply_transposed(self, d, split=2):
        of_lookups, of_states = self._split(d)
        parts = []
        if of_lookups:
            parts = self._lookups.multiply_transposed(tf.concat(of_lookups, 0))
        if of_states:
            h = self._states(d.dtype)
            dense = tf32.matmul(tf.concat(of_states, 0), h, transpose_a=True, split=split)
            parts = [dense + tf.convert_to_tensor(part) for part in parts] or [dense]
        return parts

    def trace(self):
        return tf.add_n([use.trace() * self._entries_of_row(use) for use in self.uses])

    def _states(self, dtype):
        found = [tf.cast(u.x, dtype) for u in self.uses if isinstance(u, MatrixRows)]
        return tf.concat(found, 0)

    def solve(self, d, tau, rest=None):
        lookups, (of_lookups, of_states) = self._lookups, self._split(d)
        if not of_states:
            return lookups.solve(tf.concat(of_lookups, 0), tau, rest)
        counts = tf.zeros([self.shape[0]], d.dtype)
        if lookups is not None:
            counts = replicas.total(lookups.counts())
        h = self._states(tf.float64)
        (gram,) = replicas.total_symmetric([tf.matmul(h, h, transpose_a=True)])
        # On a CPU the decomposition of what is not finite is an error. (Then `d` is not, too.)
        finite = tf.reduce_all(tf.math.is_finite(gram))
        curvatures, vectors = tf.linalg.eigh(tf.where(finite, gram, tf.zeros_like(gram)))
        curvatures = tf.maximum(curvatures, 0)
        largest = tf.cast(curvatures[-1], d.dtype) + tf.reduce_max(counts)

        def direction(dtype):
            gradient = self.multiply_transposed(tf.cast(d, dtype))[0]
            if rest is not None:
                gradient += tf.cast(rest[0], dtype)
            q = tf.cast(vectors, dtype)
            shift = tf.cast(counts, dtype)[:, None] + 1 / tf.cast(tau, dtype)
            curvature = shift + tf.cast(curvatures, dtype)

            def solve(right):
                return tf32.matmul(tf32.matmul(right, q) / curvature, q, transpose_b=True)

            p = solve(gradient)
            # On CPU, XLA's eigenvectors have seven correct digits, even in float64.
            p += solve(gradient - shift * p - tf32.matmul(p, tf.cast(gram, dtype)))
            return tf.cast(p, d.dtype)

        if d.dtype == tf.float64:
            return [direction(tf.float64)], tf.constant(False)
        p = tf.cond(
            largest * tau < _TRUSTED,
            lambda: direction(tf.float32),
            lambda: direction(tf.float64),
        )
        return [p], tf.constant(False)

    @staticmethod
    def stack(parts):
        return TiedRows([use for part in parts for use in part.uses], parts[0].shape)
