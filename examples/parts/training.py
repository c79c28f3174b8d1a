"""A training run whose clock runs while it trains, and at no other time."""

import math
import os
import time

import numpy as np
import tensorflow as tf

from parts.datasets import epoch_batches

_EVALUATED_AT_ONCE = 1000


def batch_losses(model, x, y, batch_size, steps, seed):
    """Trains a compiled model on random batches; yields the loss of each batch alone.

    Args:
        model: `keras.Model`.
        x, y: arrays.
        batch_size, steps: ints.
        seed: int, decides the batches.
    """
    random = np.random.default_rng(seed)
    for _ in range(steps):
        batch = random.integers(len(x), size=batch_size)
        model.reset_metrics()
        yield model.train_on_batch(x[batch], y[batch], return_dict=True)["loss"]


class Run:
    """One model with one optimizer, trained in pieces.

    The clock counts the seconds in which batches are put together and steps are made. It
    counts neither evaluation nor compilation: when `train` is first called, before the clock
    starts, two steps are made and all variables, the optimizer's among them, are set back.
    Set no random seed from then on: TensorFlow would drop what it has compiled.

    Args:
        model: `keras.Model`.
        loss: function of targets and outputs that returns every example's loss.
        data: `Data`.
        batch_size: int, the same at all steps.
        seed: int, decides the order of the batches.
        optimizer: what it is trained with.
        jit: whether the training step is compiled with XLA.
    """

    def __init__(self, model, loss, data, batch_size, seed, optimizer, jit=False):
        self.model, self.data, self.seed = model, data, seed
        self.batch_size = batch_size
        self.steps_per_epoch = len(data.x) // batch_size
        self.seconds, self.steps, self.diverged = 0.0, 0, False
        self._order = None, None
        self.evaluate = Evaluation(model, loss, data)
        model.compile(optimizer=optimizer, loss=loss, jit_compile=jit)
        optimizer.build(model.trainable_variables)
        self._warm = False

    def train(self, steps=math.inf, seconds=math.inf):
        """Trains until the run has made so many steps, or taken so many seconds, in all.

        A run whose loss is not finite has diverged, and is not trained further.
        """
        if not self._warm:
            self._warm_up()
        while self.steps < steps and self.seconds < seconds and not self.diverged:
            begin = time.perf_counter()
            loss = self._step()
            self.seconds += time.perf_counter() - begin
            self.steps += 1
            self.diverged = not math.isfinite(loss)

    def save(self, path):
        """Writes the state so that it is there as a whole or not at all."""
        part = f"{path}.part"
        values = {f"v{i}": v.numpy() for i, v in enumerate(self._variables())}
        with open(part, "wb") as file:
            np.savez(file, seconds=self.seconds, steps=self.steps, **values)
        os.replace(part, path)

    def load(self, path):
        if not self._warm:
            self._warm_up()
        with np.load(path) as state:
            self.seconds, self.steps = float(state["seconds"]), int(state["steps"])
            for i, variable in enumerate(self._variables()):
                variable.assign(state[f"v{i}"])

    def _step(self):
        epoch, step = divmod(self.steps, self.steps_per_epoch)
        if self._order[0] != epoch:
            batches = epoch_batches(len(self.data.x), self.batch_size, self.seed, epoch)
            self._order = epoch, batches
        batch = self._order[1][step]
        return self.model.train_on_batch(self.data.x[batch], self.data.y[batch])

    def _warm_up(self):
        before = Snapshot(self.model)
        for _ in range(2):
            self._step()
        before.restore()
        self._warm = True

    def _variables(self):
        return self.model.variables + self.model.optimizer.variables


class Snapshot:
    """The state of a compiled model and its built optimizer, to be set back to.

    Args:
        model: `keras.Model`.
    """

    def __init__(self, model):
        self._model, self._saved = model, {}
        self._values = [(v, v.numpy()) for v in model.variables + model.optimizer.variables]
        model.optimizer.save_own_variables(self._saved)

    def restore(self):
        # What a ProxProp's memory has made since is no variable of before: it forgets.
        self._model.optimizer.load_own_variables(self._saved)
        for variable, value in self._values:
            variable.assign(value)


class Evaluation:
    """Losses and accuracy of a model as it is, on data that stays the same.

    Args:
        model: `keras.Model`.
        loss: function of targets and outputs that returns every example's loss.
        data: `Data`; integer targets are classes.
    """

    def __init__(self, model, loss, data):
        self._model, self._loss, self._data = model, loss, data
        self._sums = tf.function(self._sums_of_a_piece, reduce_retracing=True)

    def __call__(self, count=None):
        """Returns losses and validation accuracy, NaN where there are no classes.

        Args:
            count: how many training examples to look at. Defaults to `None`: all.
        """
        data = self._data
        loss, _ = self._means(data.x[:count], data.y[:count])
        val_loss, accuracy = self._means(data.x_val, data.y_val)
        return {"loss": loss, "val_loss": val_loss, "val_accuracy": accuracy}

    def _means(self, x, y):
        starts = range(0, len(x), _EVALUATED_AT_ONCE)
        pieces = [slice(i, i + _EVALUATED_AT_ONCE) for i in starts]
        sums = np.array([[float(s) for s in self._sums(x[p], y[p])] for p in pieces])
        return (sums.sum(axis=0) / len(x)).tolist()

    def _sums_of_a_piece(self, x, y):
        outputs = self._model(x, training=False)
        hits = tf.constant(math.nan)
        if y.dtype.is_integer:
            right = tf.argmax(outputs, axis=-1, output_type=y.dtype) == y
            hits = tf.reduce_sum(tf.cast(right, "float32"))
        return tf.reduce_sum(self._loss(y, outputs)), hits
