"""`StepMonitor`: what implicit steps do to a model's gradients, layer by layer."""

import collections
import math
import os

import keras
import tensorflow as tf

from keras_proxprop.arguments import check_whole
from keras_proxprop.blocks import find_block
from keras_proxprop.keras_seams.layers import layers_of
from keras_proxprop.optimizers.finding import find_proxprop
from keras_proxprop.reports.plot import layer_plot
from keras_proxprop.reports.probes import STATISTICS, Observed, Probe, Timer
from keras_proxprop.reports.table import table_lines
from keras_proxprop.weights import weight_key


class StepMonitor(keras.callbacks.Callback):
    """Callback that compares implicit directions with gradients while a model trains.

    At the first step of every epoch, and at every `every`-th step after that, the monitor
    notes for each layer that takes implicit steps:

    - `cosine`: cosine of the angle between its direction and its gradient;
    - `direction_norm`, `gradient_norm`: Euclidean norms of the two;
    - `residual`: of the layer's equation, `‖(AᵀA + I/τ) P - G‖ / ‖G‖` with `G` the
      gradient: what the solver left unsolved, or (with memory) how far the batch's Gram
      matrix is from the average;
    - `rows`, `features`: numbers of rows and of columns of `A`;
    - `seconds`: how long its solver takes for random inputs of the same shapes, with the
      weight gradient: the fastest of three runs, measured once. Layers that were called
      on the same tensors are solved together, and the first of them has the time of all.

    The mean over an epoch is added to the epoch's logs as `{layer}/{statistic}`. (If the
    layer's name is not unique, the path of its kernel takes its place.) `History` sees the
    logs, and so do callbacks that come later in the list given to `fit` (`CSVLogger`,
    `TensorBoard`). The current learning rate is added as `learning_rate`; Keras itself adds
    it only where a callback changes it. The mean over all epochs is printed at the end of
    training, and `plot()` draws what was noted.

    A noted step costs about as much as another backpropagation through these layers, and
    several times as much for convolutions on CPU under XLA. `fit` compiles a training step
    with these statistics when training begins, and one without them when training ends.

    Args:
        every: int, number of steps from one noted step to the next. Defaults to `100`.

    Raises:
        ValueError: if `every` is not an int of at least 1, or (when training begins) the
            model is not compiled with a `ProxProp`.

    Example:

    >>> model.compile(optimizer=keras_proxprop.ProxProp(), loss="mse")
    >>> history = model.fit(x, y, callbacks=[keras_proxprop.StepMonitor(every=50)])
    >>> history.history["dense/cosine"]
    """

    # What was noted in each epoch of the last training.
    _epochs: tuple | list = ()

    def __init__(self, every: int = 100) -> None:
        super().__init__()
        self.every = check_whole("every", every)

    def on_train_begin(self, logs=None):
        proxprop = find_proxprop(self.model.optimizer)
        if proxprop is None:
            raise ValueError(
                "StepMonitor looks at implicit directions, and the model is not compiled "
                "with a ProxProp: compile it with `optimizer=keras_proxprop.ProxProp()`, or "
                f"leave the callback out. Received: optimizer={self.model.optimizer!r}"
            )
        self._proxprop = proxprop
        self._training, self._epoch, self._epochs = _Means(), _Means(), []
        with self.model.distribute_strategy.scope():
            self._due = tf.Variable(False, trainable=False)
            # Made before the step is traced, which would otherwise be traced again.
            layers = [layer for layer in layers_of(self.model) if layer.built]
            blocks = [block for block in (find_block(x)[0] for x in layers) if block]
            parts = [part for block in blocks for part in block.parts]
            self._probes = {weight_key(p.weights[0]): Probe(p) for p in parts if p.weights}
        proxprop.observe_with(self)
        # A step that was traced before knows nothing of this observer.
        self.model.make_train_function(force=True)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = _Means()
        self._next = 0

    def on_train_batch_begin(self, batch, logs=None):
        # `batch` is the first of `steps_per_execution` batches.
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
            # A step that loss scaling skips is not counted.
            if scaled and not all(map(math.isfinite, values)):
                continue
            self._epoch.add(name, values)
            self._training.add(name, values)

    def on_epoch_end(self, epoch, logs=None):
        if self._epoch:
            self._epochs.append(self._epoch)
        if logs is not None:
            # Logs of this epoch that another callback has written stay.
            logs.update({**_learning_rates(self._proxprop), **logs})
            for name, values in self._epoch.items():
                logs.update({f"{name}/{s}": v for s, v in zip(STATISTICS, values)})

    def on_train_end(self, logs=None):
        self._proxprop.observe_with(None)
        self._probes = {}
        self.model.make_train_function(force=True)
        print(self._table())

    def plot(self, path: str | os.PathLike | None = None):
        """Draws, layer by layer, what was noted in the last training.

        The picture shows the cosine, the length of the direction divided by that of the
        gradient, and the time of a solve. Dots are means of epochs, later ones darker.

        Args:
            path: file to save the picture in, a `.png` for instance. Defaults to `None`: the
                picture is not saved.

        Returns:
            A `matplotlib.figure.Figure`, which a notebook shows.

        Raises:
            ImportError: if matplotlib is not installed.
            RuntimeError: if nothing was noted yet.

        Example:

        >>> monitor = keras_proxprop.StepMonitor()
        >>> model.fit(x, y, epochs=5, callbacks=[monitor])
        >>> monitor.plot("steps.png")
        """
        if not self._epochs:
            raise RuntimeError(
                "StepMonitor has noted no implicit step to plot: hand it to "
                "`fit(..., callbacks=[monitor])` of a model with implicit steps first."
            )
        title = f"Implicit steps of {self.model.name!r}, {len(self._epochs)} epochs"
        figure = layer_plot(self._epochs, title)
        if path is not None:
            figure.savefig(path)
        return figure

    def observe(self, problem, rows, solver):
        """Returns a solver that solves `problem` as `solver` does, and takes notes."""
        probes = []
        for block in (member.block for member in problem.members):
            key = weight_key(block.weights[0])
            if key not in self._probes:
                with tf.init_scope():
                    self._probes[key] = Probe(block)
            # A weight may be a layer's and its cell's: this block takes the step.
            self._probes[key].layer = block.reported_as.name
            probes.append(self._probes[key])
            # The members share one solve. The first one has its time.
            first = len(probes) == 1
            probes[-1].solves(Timer(problem, solver) if first else None)
        due = None if self.every == 1 else self._due
        scale = self.model.optimizer.scale_loss(tf.constant(1.0))
        return Observed(solver, problem, probes, due, scale)

    def _table(self):
        head = ("Layer", "cosine", "‖direction‖", "‖gradient‖", "residual", *STATISTICS[4:])
        formats = ("{:.4f}", "{:.3g}", "{:.3g}", "{:.1e}", "{:,.0f}", "{:,.0f}", "{:.2g}")
        table = [head]
        for name, values in self._training.items():
            table.append((name, *(f.format(v) for f, v in zip(formats, values))))
        if len(table) == 1:
            return "StepMonitor: no layer took an implicit step in Keras's training step."
        title = f"Implicit steps of {self.model.name!r}, means of what StepMonitor noted"
        return "\n".join([title, *table_lines(table, numbers_from=1)])


def _learning_rates(proxprop):
    """Returns the current learning rates, named as Keras's callbacks name them."""
    several = getattr(proxprop, "optimizers", None)
    rates = {f"learning_rate_{o.name}": o.learning_rate for o in several or ()}
    rates = rates or {"learning_rate": proxprop.learning_rate}
    return {name: float(tf.convert_to_tensor(rate)) for name, rate in rates.items()}


class _Means(dict):
    """The mean of what was added under each name."""

    def __init__(self):
        self._counts = collections.Counter()

    def add(self, name, values):
        self._counts[name] += 1
        before = self.get(name, [0.0] * len(values))
        self[name] = [b + (v - b) / self._counts[name] for b, v in zip(before, values)]
