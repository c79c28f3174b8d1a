"""A solver that solves as another one does, and takes notes for `StepMonitor`."""

import math
import time

import tensorflow as tf

from keras_proxprop import replicas
from keras_proxprop.keras_seams.kinds import spec_of
from keras_proxprop.keras_seams.notes import Use
from keras_proxprop.problem import Member, Problem
from keras_proxprop.solvers.exact import add
from keras_proxprop.solvers.solver import Solver
from keras_proxprop.tau import Tau

# What is logged of every layer, in this order.
STATISTICS = (
    "cosine",
    "direction_norm",
    "gradient_norm",
    "residual",
    "rows",
    "features",
    "seconds",
)
_TIMED_RUNS = 3
# How many lengths of unknown axes can be kept, of all inputs of a layer's call.
_AXES = 16


class Probe:
    """Holds the statistics of one layer, which a training step writes and the host reads."""

    def __init__(self, block):
        self.layer = block.reported_as.name
        self.weight = block.weights[0].path
        self.noted = False
        self._timer = None
        self._seconds = None
        # Every replica has values of its own. Their mean is read.
        self.values = tf.Variable(
            tf.zeros(6 + _AXES),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.MEAN,
        )

    def solves(self, timer):
        """Notes that a training step solves for this layer, and that `timer` times it."""
        self.noted, self._timer = True, timer

    def read(self, jit_compile):
        """Returns the last noted values in the order of `STATISTICS`."""
        values = self.values.numpy().tolist()
        if self._seconds is None:
            shape = [round(n) for n in values[6:]]
            self._seconds = self._timer.seconds(shape, jit_compile) if self._timer else 0.0
        return [*values[:6], self._seconds]


class Timer:
    """Times the solver of one problem, on random numbers for its inputs and `D`."""

    def __init__(self, problem, solver):
        # Plain data, since tensors would keep the graph of the step.
        member = problem.members[0]
        self._block, self._weights, self._uses = member.block, member.weights, len(member.uses)
        self._inputs = tf.nest.map_structure(spec_of, member.uses[0].inputs)
        self._columns, self._solver = problem.columns, solver.without_refresh()

    def seconds(self, shapes, jit_compile):
        """Returns the time of the fastest run. `shapes` lists the lengths of unknown axes."""
        lengths = iter(shapes)
        like = tf.nest.map_structure(lambda x: _like(x, lengths), self._inputs)
        inputs = [like] * self._uses
        rows = self._rows(inputs)
        d = tf.random.normal([rows.count, self._columns], dtype=rows.dtype)

        @tf.function(jit_compile=jit_compile, autograph=False)
        def solve(inputs, d):
            part = self._solver.solve(self._rows(inputs), d, Tau(1.0))[0][0]
            return part.values if isinstance(part, tf.IndexedSlices) else part

        solve(inputs, d).numpy()
        runs = []
        for _ in range(_TIMED_RUNS):
            begin = time.perf_counter()
            solve(inputs, d).numpy()
            runs.append(time.perf_counter() - begin)
        return min(runs)

    def _rows(self, inputs):
        uses = tuple(Use(self._block, x, None) for x in inputs)
        return Problem([Member(self._block, uses, self._weights)]).rows()


def _lengths(x):
    """Returns the axes of unknown length: for a sparse tensor all of them, and its entries."""
    if isinstance(x, tf.SparseTensor):
        return tf.concat([x.dense_shape, tf.shape(x.values, tf.int64)], 0)
    unknown = [axis for axis, length in enumerate(x.shape) if length is None]
    return tf.gather(tf.shape(x, tf.int64), tf.constant(unknown, tf.int64))


def _like(spec, lengths):
    """Returns random numbers like an input, whose unknown axes have the next `lengths`."""
    if isinstance(spec, tf.SparseTensorSpec):
        shape, count = [next(lengths) for _ in spec.shape], next(lengths)
        places = tf.random.uniform([count], 0, math.prod(shape), tf.int64)
        places = tf.unravel_index(tf.sort(places), tf.constant(shape, tf.int64))
        values = tf.random.normal([count], dtype=spec.dtype)
        return tf.SparseTensor(tf.transpose(places), values, shape)
    if not isinstance(spec, tf.TensorSpec):
        return spec
    shape = [next(lengths) if length is None else length for length in spec.shape]
    if spec.dtype.is_floating:
        return tf.random.normal(shape, dtype=spec.dtype)
    return tf.zeros(shape, spec.dtype)


class Observed(Solver):
    """Solves as another solver does, and writes statistics of that into `probes`.

    Args:
        solver: `Solver` to ask.
        problem: `Problem` that is solved.
        probes: the `Probe` of every member of the problem.
        due: boolean tensor, whether to note this step's statistics, or `None`: always.
        scale: number by which the loss was multiplied.
    """

    def __init__(self, solver, problem, probes, due, scale):
        self._solver = solver
        self.sees_all_replicas = solver.sees_all_replicas
        self._problem = problem
        self._probes = probes
        self._due = due
        self._scale = scale

    def solve(self, rows, d, tau, rest=None):
        direction, damped = self._solver.solve(rows, d, tau, rest)

        def note():
            return self._statistics(rows, d, tau.of(rows), rest, direction)

        def keep():
            return tf.stack([probe.values.read_value() for probe in self._probes])

        due = None if self._due is None else tf.convert_to_tensor(self._due)
        values = note() if due is None else replicas.cond(due, note, keep)
        for i, probe in enumerate(self._probes):
            probe.values.assign(values[i])
        return direction, damped

    def _statistics(self, rows, d, tau, rest, direction):
        # Made dense, since the directions of an embedding are slices.
        direction = replicas.total([tf.convert_to_tensor(part) for part in direction])
        products = (
            rows.multiply_transposed(d),
            rows.multiply_transposed(rows.multiply(direction)),
        )
        gradient, image = (
            [tf.convert_to_tensor(part) for part in parts] for parts in products
        )
        gradient, image = replicas.total(add(gradient, rest)), replicas.total(image)
        residual = [a + p / tau - g for a, p, g in zip(image, direction, gradient)]
        widths = [member.block.columns for member in self._problem.members]

        def dot(left, right):
            """Returns the inner product of two directions, for every member."""
            columns = tf.add_n([tf.reduce_sum(a * b, axis=0) for a, b in zip(left, right)])
            parts = tf.split(columns, widths) if len(widths) > 1 else [columns]
            return tf.stack([tf.reduce_sum(part) for part in parts])

        p, g = tf.sqrt(dot(direction, direction)), tf.sqrt(dot(gradient, gradient))
        cosine = tf.math.divide_no_nan(dot(direction, gradient), p * g)
        left = tf.math.divide_no_nan(tf.sqrt(dot(residual, residual)), g)
        scale = tf.cast(self._scale, g.dtype)
        count = replicas.total_count(rows.count)
        sizes = (tf.fill(tf.shape(g), tf.cast(n, g.dtype)) for n in (count, rows.features))
        inputs = tf.nest.flatten(self._problem.members[0].uses[0].inputs)
        lengths = [_lengths(x) for x in inputs if tf.is_tensor(x)]
        shape = tf.cast(tf.concat(lengths, axis=0), g.dtype)
        shape = tf.pad(shape, [[0, _AXES - shape.shape[0]]])
        values = tf.stack([cosine, p / scale, g / scale, left, *sizes], axis=1)
        values = tf.concat([values, tf.tile(shape[None], [len(widths), 1])], axis=1)
        return tf.cast(values, tf.float32)
