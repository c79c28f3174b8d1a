"""What `mutations.py` breaks: one place of the source at a time."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One place of the source, what to write there, and the tests that must notice: a file of
    tests and, after a space, an expression as for pytest's `-k`."""

    name: str
    file: str
    old: str
    new: str
    tests: str

    def apply(self, package):
        source = (path := package / self.file).read_text()
        if source.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.old!r} is not once in {self.file}.")
        path.write_text(source.replace(self.old, self.new))


EXACT = "test_solvers.py exact_step_solves"
REST = "test_solvers.py rest_of_the_gradient"
BLOCKS = "test_blocks.py rows_are_the_jacobian"
AVERAGED = "test_memory.py steps_are_those_of_the_averaged and 0.5"
MUTATIONS = [
    Mutation(
        "sign of the rest",
        "solvers/exact.py",
        "return [p + r for p, r in zip(direction, rest)]",
        "return [p - r for p, r in zip(direction, rest)]",
        REST,
    ),
    Mutation(
        "sign of the direction",
        "solvers/exact.py",
        "self.right = add(rows.multiply_transposed(d), rest)",
        "self.right = [-part for part in add(rows.multiply_transposed(d), rest)]",
        "test_propositions.py of_descent",
    ),
    Mutation(
        "tau for 1/tau",
        "solvers/exact.py",
        "solution(_Primal(rows, d, tau, rest), 1 / tau)",
        "solution(_Primal(rows, d, tau, rest), tau)",
        EXACT,
    ),
    Mutation(
        "tau for 1/tau in a closed form",
        "rows/one_hot.py",
        "replicas.total(self.counts()) + 1 / tau",
        "replicas.total(self.counts()) + tau",
        "test_more_blocks.py dense_solve and embedding",
    ),
    Mutation(
        "10/F for 10 F in tau='auto'",
        "tau.py",
        "/ rows.features",
        "* rows.features",
        "test_tau.py own_rows",
    ),
    Mutation(
        "tau='auto' from the kept sum where the average is solved with",
        "memory/inverses.py",
        "mean_per_matrix(tf.linalg.diag_part(whole))",
        "mean_per_matrix(tf.linalg.diag_part(average))",
        "test_memory.py steps_are_those_of_the_averaged and auto and dense",
    ),
    Mutation(
        "transposed Gram matrix",
        "rows/matrix.py",
        "outer = tf.matmul(self.x, self.x, transpose_b=True)",
        "outer = tf.matmul(self.x, self.x, transpose_a=True)",
        EXACT,
    ),
    Mutation(
        "missing bias column in the Gram matrix",
        "rows/matrix.py",
        "return border(gram, sums, tf.cast(self.count, self.dtype))",
        "return border(gram, 0 * sums, tf.cast(self.count, self.dtype))",
        BLOCKS,
    ),
    Mutation(
        "missing bias column in the dual",
        "rows/matrix.py",
        "return outer + 1 if self.bias else outer",
        "return outer",
        EXACT,
    ),
    Mutation(
        "missing bias in the product with A",
        "rows/matrix.py",
        "return product + direction[1] if self.bias else product",
        "return product",
        BLOCKS,
    ),
    Mutation(
        "number of rows off by one under the bias",
        "rows/arrays.py",
        "tf.ones_like(sums[..., :1]) * count",
        "tf.ones_like(sums[..., :1]) * (count - 1)",
        BLOCKS,
    ),
    Mutation(
        "missing border correction",
        "rows/correlation.py",
        "if not axis.groups:",
        "if True:",
        "test_blocks.py correlation_gram and 1",
    ),
    Mutation(
        "taps i and j exchanged",
        "rows/correlation.py",
        "np.arange(taps) - np.arange(taps)[:, None] + taps - 1",
        "np.arange(taps)[:, None] - np.arange(taps) + taps - 1",
        "test_blocks.py correlation_gram and 1",
    ),
    Mutation(
        "pixels left out at an end, one group too few",
        "rows/correlation.py",
        "return max(self.taps - 1 - self.low // self.dilation, 0)",
        "return max(self.taps - 2 - self.low // self.dilation, 0)",
        "test_blocks.py correlation_gram and 1",
    ),
    Mutation(
        "groups in the order of columns, not of runs",
        "rows/arrays.py",
        "parts = tf.reshape(matrix, [-1, count, matrix.shape[-1] // count])\n"
        "    return tf.transpose(parts, [1, 0, 2])",
        "parts = tf.reshape(matrix, [-1, matrix.shape[-1] // count, count])\n"
        "    return tf.transpose(parts, [2, 0, 1])",
        "test_more_blocks.py dense_solve and groups",
    ),
    Mutation(
        "group index off by one",
        "rows/arrays.py",
        "return tf.transpose(parts, [1, 0, 2])",
        "return tf.roll(tf.transpose(parts, [1, 0, 2]), 1, 0)",
        "test_more_blocks.py dense_solve and groups",
    ),
    Mutation(
        "only the first call of a layer that is called twice",
        "rows/stacked.py",
        "return tf.add_n([part.gram() for part in self.parts])",
        "return self.parts[0].gram()",
        "test_blocks.py stacked",
    ),
    Mutation(
        "mean of an x̂ taken as zero",
        "rows/scaling.py",
        "return self.square + self._number() * self.mean**2",
        "return self.square",
        "test_more_blocks.py scaling_rows",
    ),
    Mutation(
        "taps of a transposed kernel in the wrong order",
        "blocks/transposed.py",
        "kernel = tf.reverse(kernel, list(range(rank - 2)))",
        "kernel = tf.identity(kernel)",
        "test_more_blocks.py dense_solve and ranspose",
    ),
    Mutation(
        "CG that loses conjugacy",
        "solvers/conjugate_gradient.py",
        "direction = residual + tf.math.divide_no_nan(square, previous) * direction",
        "direction = residual",
        "test_solvers.py cg_iterations",
    ),
    Mutation(
        "factor not transposed",
        "solvers/factorization.py",
        "return tf.matmul(factor, tf.matmul(factor, right), transpose_a=True)",
        "return tf.matmul(factor, tf.matmul(factor, right))",
        EXACT,
    ),
    Mutation(
        "decay of memory for all that is new",
        "memory/averaged_gram.py",
        "(1 - kept) * new",
        "kept * new",
        AVERAGED,
    ),
    Mutation(
        "sum over rows for their mean in memory",
        "memory/averaged_gram.py",
        "number = keep * number + (1 - keep) * rows",
        "number = keep * number + (1 - keep)",
        AVERAGED,
    ),
    Mutation(
        "memory without a bound for outliers",
        "memory/averaged_gram.py",
        "scaled = limited(batch, mean, last)",
        "scaled = tf.ones_like(down)",
        "test_memory_outliers.py ten_batches",
    ),
    Mutation(
        "memory of a step that is skipped",
        "memory/step.py",
        "step_if(due & finite, assign, values)",
        "step_if(due, assign, values)",
        "test_memory_outliers.py leaves_no_trace",
    ),
    Mutation(
        "memory that is not saved",
        "optimizers/wrapper.py",
        "store[name] = array",
        "pass",
        "test_memory_state.py state_is_saved",
    ),
    Mutation(
        "exponent of the rows in a step's length",
        "optimizers/row_adam.py",
        "_EXPONENT = 1 / 3",
        "_EXPONENT = 1 / 2",
        "test_row_adam.py cube_root",
    ),
    Mutation(
        "weights of the points in a schedule-free average",
        "optimizers/schedule_free_adam.py",
        "share = (_POWER + 1) / (t + _POWER)",
        "share = 1 / t",
        "test_schedule_free_adam.py many_steps",
    ),
    Mutation(
        "steps that get shorter as their number, not as its root",
        "optimizers/schedule_free_adam.py",
        "tf.sqrt(1 + t / _FULL_STEPS)",
        "(1 + t / _FULL_STEPS)",
        "test_schedule_free_adam.py many_steps",
    ),
    Mutation(
        "rows of an embedding that forget while nobody looks them up",
        "optimizers/schedule_free_adam.py",
        "return tf.where(seen, squares, mean_square)",
        "return squares",
        "test_schedule_free_adam.py not_looked_up and graph",
    ),
    Mutation(
        "items for labels in a step's length",
        "problem.py",
        "max(labels, default=1)",
        "1",
        "test_step_lengths.py fit_steps_as_summary",
    ),
    Mutation(
        "explicit steps everywhere",
        "plan.py",
        "            elif id(block.layer) in final:",
        "            elif True:",
        "test_golden.py hidden_layer",
    ),
]
