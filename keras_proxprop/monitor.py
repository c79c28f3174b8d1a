"""`StepMonitor`: what implicit steps do to a model's gradients, layer by layer."""

import collections
import math
import numbers
import time

import keras
import tensorflow as tf

from keras_proxprop.blocks import find_block
from keras_proxprop.blocks.slices import weight_key
from keras_proxprop.optimizer import find_proxprop
from keras_proxprop.problem import Member, Problem
from keras_proxprop.recording import Use
from keras_proxprop.solvers.exact import add
from keras_proxprop.solvers.solver import Solver

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
# How many axes there is place for: of all that a layer's call was noted with.
_AXES = 16


class StepMonitor(keras.callbacks.Callback):
    """Callback that compares implicit directions with gradients while a model trains.

    At the first step of every epoch, and at every `every`-th one after it, it notes of
    each layer that takes implicit steps:

    - `cosine`: of the angle between its direction and its gradient;
    - `direction_norm`, `gradient_norm`: their Euclidean norms;
    - `residual`: of the layer's equation, `‖(AᵀA + I/τ) P - G‖ / ‖G‖` with `G` the
      gradient: what the solver left unsolved;
    - `rows`, `features`: the size of `A`;
    - `seconds`: how long its solver takes, its weight gradient included, for random
      inputs of the same shapes; measured once, the fastest of three runs. Layers that
      were called on the same tensors are solved at once: their time is the first one's.

    The mean over an epoch is added to the epoch's logs as `{layer}/{statistic}` (with the
    path of its kernel for the layer's name, where that is not unique), where
    `History` sees it, and callbacks that come later in the list given to `fit`
    (`CSVLogger`, `TensorBoard`). The mean over all epochs is printed at the end of training.

    A noted step costs about as much as another backpropagation through these layers; for
    convolutions on CPU under XLA several times that. `fit` compiles a training step with
    these statistics when the monitor comes and one without them when it goes.

    Args:
        every: int, how many steps are taken from one that is noted to the next. Defaults
            to `100`.

    Raises:
        ValueError: if `every` is not an int of at least 1, or (when training begins) the
            model is not compiled with a `ProxProp`.

    Example:

    >>> model.compile(optimizer=keras_proxprop.ProxProp(), loss="mse")
    >>> history = model.fit(x, y, callbacks=[keras_proxprop.StepMonitor(every=50)])
    >>> history.history["dense/cosine"]
    """

    def __init__(self, every=100):
        super().__init__()
        whole = isinstance(every, numbers.Integral) and not isinstance(every, bool)
        if not whole or every < 1:
            raise ValueError(
                f"Argument `every` must be an integer of at least 1. Received: every={every!r}"
            )
        self.every = int(every)

    def on_train_begin(self, logs=None):
        proxprop = find_proxprop(self.model.optimizer)
        if proxprop is None:
            raise ValueError(
                "StepMonitor looks at implicit directions, and the model is not compiled "
                f"with a ProxProp. Received: optimizer={self.model.optimizer!r}"
            )
        self._proxprop = proxprop
        self._training, self._epoch = _Means(), _Means()
        with self.model.distribute_strategy.scope():
            self._due = tf.Variable(False, trainable=False)
            # Before the step is traced, which would have to be traced again with them.
            layers = [layer for layer in self.model._flatten_layers() if layer.built]
            blocks = [block for block in (find_block(x)[0] for x in layers) if block]
            parts = [part for block in blocks for part in block.parts]
            self._probes = {weight_key(p.weights[0]): _Probe(p) for p in parts if p.weights}
        proxprop.observer = self
        # The step that was traced before knows nothing of this one's observer.
        self.model.make_train_function(force=True)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = _Means()
        self._next = 0

    def on_train_batch_begin(self, batch, logs=None):
        # `batch` is the first of `steps_per_execution`.
        if batch + self.model.steps_per_execution > self._next:
            self._due.assign(True)

    def on_train_batch_end(self, batch, logs=None):
        if batch < self._next:
            return
        self._due.assign(False)
        self._next = batch - batch % self.every + self.every
        probes = [probe for probe in self._probes.values() if probe.noted]
        names = collections.Counter(probe.layer for probe in probes)
        scaled = isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer)
        for probe in probes:
            name = probe.layer if names[probe.layer] == 1 else probe.weight
            values = probe.read(self.model.jit_compile)
            # What loss scaling skips is no step.
            if scaled and not all(map(math.isfinite, values)):
                continue
            self._epoch.add(name, values)
            self._training.add(name, values)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            for name, values in self._epoch.items():
                logs.update({f"{name}/{s}": v for s, v in zip(STATISTICS, values)})

    def on_train_end(self, logs=None):
        self._proxprop.observer = None
        self._probes = {}
        self.model.make_train_function(force=True)
        print(self._table())

    def observe(self, problem, solver):
        """Returns a solver that solves `problem` as `solver` does, and takes notes."""
        probes = []
        for block in (member.block for member in problem.members):
            key = weight_key(block.weights[0])
            if key not in self._probes:
                with tf.init_scope():
                    self._probes[key] = _Probe(block)
            probes.append(self._probes[key])
            # They share one solve: its time is the first one's.
            first = len(probes) == 1
            probes[-1].solves(_Timer(problem, solver) if first else None)
        due = None if self.every == 1 else self._due
        scale = self.model.optimizer.scale_loss(tf.constant(1.0))
        return _Observed(solver, problem, probes, due, scale)

    def _table(self):
        head = ("Layer", "cosine", "‖direction‖", "‖gradient‖", "residual", *STATISTICS[4:])
        formats = ("{:.4f}", "{:.3g}", "{:.3g}", "{:.1e}", "{:,.0f}", "{:,.0f}", "{:.2g}")
        table = [head]
        for name, values in self._training.items():
            table.append((name, *(f.format(v) for f, v in zip(formats, values))))
        if len(table) == 1:
            return "StepMonitor: no layer took an implicit step in Keras's training step."
        widths = [max(len(row[i]) for row in table) for i in range(len(head))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in table
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        title = f"Implicit steps of {self.model.name!r}, means of what StepMonitor noted"
        return "\n".join([title, *lines])


class _Means(dict):
    """The mean of what was added under each name."""

    def __init__(self):
        self._counts = collections.Counter()

    def add(self, name, values):
        self._counts[name] += 1
        before = self.get(name, [0.0] * len(values))
        self[name] = [b + (v - b) / self._counts[name] for b, v in zip(before, values)]


class _Probe:
    """The place of one layer's statistics: what a training step writes and the host reads."""

    def __init__(self, block):
        self.layer = block.shown.name
        self.weight = block.weights[0].path
        self.noted = False
        self.features = 0
        self._timer = None
        self._seconds = None
        # Every replica has its own, read as their mean.
        self.values = tf.Variable(
            tf.zeros(5 + _AXES),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.MEAN,
        )

    def solves(self, timer):
        """Notes that a training step solves for this layer, in the time of `timer`."""
        self.noted, self._timer = True, timer

    def read(self, jit_compile):
        """Returns the last noted values in the order of `STATISTICS`."""
        values = self.values.numpy().tolist()
        if self._seconds is None:
            shape = [round(n) for n in values[5:]]
            self._seconds = self._timer.seconds(shape, jit_compile) if self._timer else 0.0
        return [*values[:5], self.features, self._seconds]


class _Timer:
    """Times the solver of one problem, on random numbers for its inputs and `D`."""

    def __init__(self, problem, solver):
        # Plain data: tensors would hold the graph of the step.
        member = problem.members[0]
        self._block, self._weights, self._uses = member.block, member.weights, len(member.uses)
        self._inputs = tf.nest.map_structure(tf.TensorSpec.from_tensor, member.uses[0].inputs)
        self._columns, self._solver = problem.columns, solver

    def seconds(self, shapes, jit_compile):
        """Returns the fastest run's time for inputs of these shapes, one after the other."""
        shapes = iter(shapes)

        def like(x):
            shape = [next(shapes) for _ in x.shape]
            if x.dtype.is_floating:
                return tf.random.normal(shape, dtype=x.dtype)
            return tf.zeros(shape, x.dtype)

        inputs = [tf.nest.map_structure(like, self._inputs)] * self._uses
        rows = self._rows(inputs)
        d = tf.random.normal([rows.count, self._columns], dtype=rows.dtype)

        @tf.function(jit_compile=jit_compile, autograph=False)
        def solve(inputs, d):
            tau = tf.ones([], d.dtype)
            part = self._solver.solve(self._rows(inputs), d, tau)[0][0]
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


class _Observed(Solver):
    """Another solver, with statistics of what it does in `probes`, one per member.

    Args:
        solver: `Solver` to ask.
        problem: `Problem` that is solved.
        probes: the `_Probe` of every member of the problem.
        due: boolean tensor, whether to note this step's statistics; `None` is always.
        scale: what the loss was multiplied by.
    """

    def __init__(self, solver, problem, probes, due, scale):
        self._solver = solver
        self._problem = problem
        self._probes = probes
        self._due = due
        self._scale = scale

    def solve(self, rows, d, tau, rest=None):
        direction, damped = self._solver.solve(rows, d, tau, rest)

        def note():
            return self._statistics(rows, d, tau, rest, direction)

        def keep():
            return tf.stack([probe.values.read_value() for probe in self._probes])

        values = note() if self._due is None else tf.cond(self._due, note, keep)
        for i, probe in enumerate(self._probes):
            probe.features = rows.features
            probe.values.assign(values[i])
        return direction, damped

    def _statistics(self, rows, d, tau, rest, direction):
        # Dense, where an embedding's are slices.
        direction = [tf.convert_to_tensor(part) for part in direction]
        products = (
            rows.multiply_transposed(d),
            rows.multiply_transposed(rows.multiply(direction)),
        )
        gradient, image = (
            [tf.convert_to_tensor(part) for part in parts] for parts in products
        )
        gradient = add(gradient, rest)
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
        count = tf.fill(tf.shape(g), tf.cast(rows.count, g.dtype))
        inputs = tf.nest.flatten(self._problem.members[0].uses[0].inputs)
        shape = tf.cast(tf.concat([tf.shape(x) for x in inputs], axis=0), g.dtype)
        shape = tf.pad(shape, [[0, _AXES - shape.shape[0]]])
        values = tf.stack([cosine, p / scale, g / scale, left, count], axis=1)
        values = tf.concat([values, tf.tile(shape[None], [len(widths), 1])], axis=1)
        return tf.cast(values, tf.float32)
