"""The rows `A` of a linear map, as an operator that the solvers can ask.

Everything here is matrices. A direction `P` is a list: the kernel's part
`[n, columns]` and, where there is a bias, the bias's part `[1, columns]`; stacked
they are `[features, columns]`. `D` and `z` are `[count, columns]`.
"""

import tensorflow as tf

from keras_proxprop.rows.arrays import in_runs, joined


class Rows:
    """A matrix `A` of `count` rows and `features` columns, known by its products.

    Args:
        bias: whether the last column of `A` is the bias's column of ones.
        features: number of columns, the bias's included; static.
        dtype: the dtype that Gram matrices and solves use.
        per_item: rows per item of the batch; nominal where that is unknown. Defaults to 1.

    Attributes:
        gram_cost: multiply-adds of `gram()` per row.
        matrix_cost: what `matrix()` costs per row, in multiply-adds.
        choose_at_run_time: whether a graph for unknown batch sizes may hold several forms, or
            only the cheapest one at a typical batch size.
        groups: number of equal runs of output columns, each with a matrix `A` of its own. With
            more than one, Gram matrices are `[groups, features, features]`.
        closed_form: whether the problem is solved by these rows' own `solve`.
        closed_price: multiply-adds of the closed form, per entry of `A` and output column.
        entries: how many entries of a row may be other than zero.
        closed_traffic: how many numbers a replica sends the others for the closed form.
        can_average: whether the Gram matrix can be averaged over batches.
        estimates_trace: whether `trace` returns no more than an estimate.
        layout: of rows that are a matrix `x`, what `laid_out` needs to make such rows again.
            `None` for all others.
    """

    matrix_cost = 0.0
    choose_at_run_time = True
    groups = 1
    closed_form = False
    closed_price = 2.0
    closed_traffic = 0
    can_average = True
    estimates_trace = False
    layout = None

    def __init__(self, bias, features, dtype, per_item=1):
        self.bias = bias
        self.features = features
        self.dtype = dtype
        self.per_item = per_item

    @property
    def labels_per_item(self):
        """How many labels an item has, where these are the rows of a last layer."""
        return self.per_item

    @property
    def count(self):
        """Number of rows: an int where it is known at trace time, else a scalar tensor."""
        raise NotImplementedError

    @property
    def entries(self):
        return self.features

    @property
    def triangles(self):
        """How many numbers there are in the upper triangles of the Gram matrices."""
        return self.groups * self.features * (self.features + 1) // 2

    @property
    def written_out(self):
        """How many numbers these rows have when they are written out."""
        return self.count * (self.features - int(self.bias))

    def multiply(self, direction):
        """Returns `A P`."""
        raise NotImplementedError

    def multiply_transposed(self, d, split=2):
        """Returns `Aᵀ D`, a direction.

        Args:
            d: `[count, columns]`.
            split: which of `A` and `D` are not to be rounded, as in `tf32.product`. Defaults
                to 2: both.
        """
        raise NotImplementedError

    def trace(self):
        """Returns the trace of `AᵀA`, the mean over groups where there are several."""
        raise NotImplementedError

    def gram(self):
        """Returns `AᵀA`, `[features, features]`."""
        raise NotImplementedError

    def equations_in_float64(self, d):
        """Returns `AᵀA` and `Aᵀ D`, a direction, in float64."""
        rows = self.cast(tf.float64)
        return rows.gram(), rows.multiply_transposed(tf.cast(d, tf.float64))

    def matrix(self):
        """Returns these rows written out, as a `MatrixRows`."""
        raise NotImplementedError

    def cast(self, dtype):
        """Returns the same rows in another dtype."""
        raise NotImplementedError

    def solve(self, d, tau, rest=None):
        """Does what `Solver.solve` does, where there is a closed form."""
        raise NotImplementedError

    def _with_bias(self, kernel, d):
        """Returns `Aᵀ D` as a direction, from the kernel's part of it."""
        return [kernel, tf.reduce_sum(d, 0, keepdims=True)] if self.bias else [kernel]

    def _ones(self):
        """Returns what the bias's column of ones adds to the trace."""
        return tf.cast(self.count if self.bias else 0, self.dtype)

    def split(self, stacked):
        """Returns `[features, columns]` as a direction."""
        return tf.split(stacked, [-1, 1]) if self.bias else [stacked]

    def by_group(self, matrix):
        """Returns `[n, columns]` as `[groups, n, columns of one]`, unchanged for one group."""
        return matrix if self.groups == 1 else in_runs(matrix, self.groups)

    def side_by_side(self, parts):
        """Undoes `by_group`."""
        return parts if self.groups == 1 else joined(parts, self.groups)
