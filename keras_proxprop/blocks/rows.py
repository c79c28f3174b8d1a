"""The rows `A` of a linear map, as an operator that the solvers can ask.

Everything here is matrices. A direction `P` is a list: the kernel's part
`[n, columns]` and, where there is a bias, the bias's part `[1, columns]`; stacked
they are `[features, columns]`. `D` and `z` are `[count, columns]`.
"""

import tensorflow as tf


class Rows:
    """A matrix `A` of `count` rows and `features` columns, known by its products.

    Args:
        bias: whether the last column of `A` is the bias's column of ones.
        features: number of columns, the bias's included; static.
        dtype: the dtype that Gram matrices and solves use.

    Attributes:
        per_item: rows per item of the batch; nominal where that is unknown.
        gram_cost: multiply-adds of `gram()` per row.
        matrix_cost: what `matrix()` costs per row, in multiply-adds.
        choose_at_run_time: whether the products run as fast inside of control flow.
        groups: into how many equal runs the output columns fall, each with a matrix `A` of its
            own; Gram matrices are then `[groups, features, features]`.
        closed_form: whether the problem is solved by these rows' own `solve`.
        closed_cost: multiply-adds of that per entry of `A` and output column.
        can_average: whether their Gram matrix is one that can be kept from batch to batch.
    """

    per_item = 1
    matrix_cost = 0.0
    choose_at_run_time = True
    groups = 1
    closed_form = False
    closed_cost = 2.0
    can_average = True

    def __init__(self, bias, features, dtype):
        self.bias = bias
        self.features = features
        self.dtype = dtype

    @property
    def count(self):
        """Number of rows: an int where it is known at trace time, else a scalar tensor."""
        raise NotImplementedError

    def multiply(self, direction):
        """Returns `A P`."""
        raise NotImplementedError

    def multiply_transposed(self, d):
        """Returns `Aᵀ D`, a direction."""
        raise NotImplementedError

    def trace(self):
        """Returns the trace of `AᵀA`, the mean over groups where there are several."""
        raise NotImplementedError

    def gram(self):
        """Returns `AᵀA`, `[features, features]`."""
        raise NotImplementedError

    def gram_in_control_flow(self):
        """Returns `AᵀA`, in a way that XLA does not make slow inside of control flow."""
        return self.gram()

    def multiply_transposed_in_control_flow(self, d):
        """Returns `Aᵀ D`, in a way that XLA does not make slow inside of control flow."""
        return self.multiply_transposed(d)

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
        """Does what a `Solver` does, where there is a closed form."""
        raise NotImplementedError

    def _with_bias(self, kernel, d):
        """Returns `Aᵀ D` as a direction, the kernel's part of it given."""
        return [kernel, tf.reduce_sum(d, 0, keepdims=True)] if self.bias else [kernel]

    def _ones(self):
        """Returns what the bias's column of ones adds to the trace."""
        return tf.cast(self.count if self.bias else 0, self.dtype)

    def split(self, stacked):
        """Returns `[features, columns]` as a direction."""
        return [stacked[:-1], stacked[-1:]] if self.bias else [stacked]

    def by_group(self, matrix):
        """Returns `[n, columns]` as `[groups, n, columns of one]`; as it is if one group."""
        return matrix if self.groups == 1 else in_runs(matrix, self.groups)

    def side_by_side(self, parts):
        """Undoes `by_group`."""
        return parts if self.groups == 1 else joined(parts, self.groups)

    @staticmethod
    def stack(parts):
        """Returns the rows of several calls of one layer as one problem."""
        return StackedRows(parts)


class MatrixRows(Rows):
    """Rows written out: a matrix `x` of `[count, n]`, and ones where there is a bias."""

    def __init__(self, x, bias):
        super().__init__(bias, x.shape[-1] + int(bias), x.dtype)
        self.x = x
        self.gram_cost = self.features**2

    @property
    def count(self):
        return size(self.x, 0)

    def multiply(self, direction):
        product = tf.matmul(self.x, direction[0])
        return product + direction[1] if self.bias else product

    def multiply_transposed(self, d):
        kernel = tf.matmul(self.x, d, transpose_a=True)
        return self._with_bias(kernel, d)

    def trace(self):
        return tf.reduce_sum(self.x**2) + self._ones()

    def gram(self):
        gram = tf.matmul(self.x, self.x, transpose_a=True)
        if not self.bias:
            return gram
        sums = tf.reduce_sum(self.x, axis=0, keepdims=True)
        return border(gram, sums, tf.cast(self.count, self.dtype))

    def outer(self):
        """Returns `AAᵀ`, `[count, count]`."""
        outer = tf.matmul(self.x, self.x, transpose_b=True)
        return outer + 1 if self.bias else outer

    def with_ones(self):
        """Returns `A` with the bias's column of ones written out."""
        return tf.concat([self.x, tf.ones_like(self.x[:, :1])], 1) if self.bias else self.x

    def split_columns(self, matrix):
        """Returns `[count, features]` as a list: the columns of every weight."""
        return [matrix[:, :-1], matrix[:, -1:]] if self.bias else [matrix]

    def matrix(self):
        return self

    def cast(self, dtype):
        return MatrixRows(tf.cast(self.x, dtype), self.bias)


class PartitionedRows(MatrixRows):
    """Rows written out whose features belong to any number of weights, `sizes` to each."""

    def __init__(self, x, sizes):
        super().__init__(x, bias=False)
        self._sizes = sizes

    def multiply(self, direction):
        return super().multiply([tf.concat(direction, axis=0)])

    def multiply_transposed(self, d):
        return self.split(super().multiply_transposed(d)[0])

    def split(self, stacked):
        return tf.split(stacked, self._sizes)

    def split_columns(self, matrix):
        return tf.split(matrix, self._sizes, axis=1)

    def cast(self, dtype):
        return PartitionedRows(tf.cast(self.x, dtype), self._sizes)

    @staticmethod
    def stack(parts):
        rows = PartitionedRows(tf.concat([part.x for part in parts], 0), parts[0]._sizes)
        rows.per_item = sum(part.per_item for part in parts)
        return rows


class GroupedRows(Rows):
    """Rows of many small problems, written out: a matrix of `[count, n]` for every group of
    output columns, and ones where there is a bias; `x` is `[groups, count, n]`."""

    def __init__(self, x, bias):
        super().__init__(bias, x.shape[-1] + int(bias), x.dtype)
        self.x = x
        self.groups = x.shape[0]
        self.gram_cost = self.groups * self.features**2

    @property
    def count(self):
        return size(self.x, 1)

    def multiply(self, direction):
        product = self.side_by_side(tf.matmul(self.x, self.by_group(direction[0])))
        return product + direction[1] if self.bias else product

    def multiply_transposed(self, d):
        kernel = self.side_by_side(tf.matmul(self.x, self.by_group(d), transpose_a=True))
        return self._with_bias(kernel, d)

    def trace(self):
        return tf.reduce_sum(self.x**2) / self.groups + self._ones()

    def gram(self):
        a = tf.concat([self.x, tf.ones_like(self.x[..., :1])], -1) if self.bias else self.x
        return tf.matmul(a, a, transpose_a=True)

    def cast(self, dtype):
        return GroupedRows(tf.cast(self.x, dtype), self.bias)


class StackedRows(Rows):
    """The rows of several calls of one layer, one after the other, as one problem."""

    def __init__(self, parts):
        first = parts[0]
        super().__init__(first.bias, first.features, first.dtype)
        self.parts = parts
        self.groups = first.groups
        self.per_item = sum(part.per_item for part in parts)
        self.gram_cost = max(part.gram_cost for part in parts)
        self.matrix_cost = max(part.matrix_cost for part in parts)
        self.choose_at_run_time = all(part.choose_at_run_time for part in parts)
        self.can_average = first.can_average

    @property
    def count(self):
        return sum(part.count for part in self.parts)

    def multiply(self, direction):
        return tf.concat([part.multiply(direction) for part in self.parts], 0)

    def multiply_transposed(self, d):
        return self._add_products("multiply_transposed", d)

    def multiply_transposed_in_control_flow(self, d):
        return self._add_products("multiply_transposed_in_control_flow", d)

    def equations_in_float64(self, d):
        pairs = self._of_parts("equations_in_float64", d)
        grams, products = zip(*pairs)
        return tf.add_n(grams), [tf.add_n(terms) for terms in zip(*products)]

    def _add_products(self, name, d):
        return [tf.add_n(terms) for terms in zip(*self._of_parts(name, d))]

    def _of_parts(self, name, d):
        pieces = tf.split(d, [part.count for part in self.parts], axis=0)
        return [getattr(part, name)(piece) for part, piece in zip(self.parts, pieces)]

    def split(self, stacked):
        return self.parts[0].split(stacked)

    def trace(self):
        return tf.add_n([part.trace() for part in self.parts])

    def gram(self):
        return tf.add_n([part.gram() for part in self.parts])

    def gram_in_control_flow(self):
        return tf.add_n([part.gram_in_control_flow() for part in self.parts])

    def matrix(self):
        matrices = [part.matrix() for part in self.parts]
        if isinstance(matrices[0], PartitionedRows):
            return PartitionedRows.stack(matrices)
        return MatrixRows(tf.concat([matrix.x for matrix in matrices], 0), self.bias)


def border(gram, sums, count):
    """Returns a Gram matrix, or a stack, with the row and column of the bias's ones added."""
    top = tf.concat([gram, tf.linalg.matrix_transpose(sums)], axis=-1)
    bottom = tf.concat([sums, tf.ones_like(sums[..., :1]) * count], axis=-1)
    return tf.concat([top, bottom], axis=-2)


def in_runs(matrix, count):
    """Returns `[n, columns]` as `[count, n, columns of one run]`."""
    parts = tf.reshape(matrix, [-1, count, matrix.shape[-1] // count])
    return tf.transpose(parts, [1, 0, 2])


def joined(parts, count):
    """Undoes `in_runs`."""
    return tf.reshape(tf.transpose(parts, [1, 0, 2]), [-1, count * parts.shape[-1]])


def size(tensor, axis):
    """Returns the size of an axis: an int where it is static, else a scalar tensor."""
    static = tensor.shape[axis]
    return tf.shape(tensor)[axis] if static is None else static
