"""One run of `everyday.py`: a task trained with one optimizer for so many steps."""

import math
import time

import keras

from parts.datasets import epoch_batches

# Where the model is looked at; they grow, since a loss falls fastest at first.
_POINTS = 12
_GROWTH = 1.5
# How many steps are timed at most, and how many of them one optimizer makes before it is the
# next one's turn.
_TIMED = 1000
_TURN = 10


def points(steps):
    """Returns after which steps the model is looked at, the first before any."""
    return sorted({round(steps * (k / _POINTS) ** _GROWTH) for k in range(_POINTS + 1)})


def train(task, optimizer, seed, steps=None):
    """Trains a task, and returns what came of it.

    The clock counts the seconds that the processor works while batches are put together and
    steps are made, so that other work on the machine does not count; nor do the first step,
    which is compiled, and evaluation. A run whose loss is not finite has diverged, and is not
    trained further.

    Args:
        task: `Task`.
        optimizer: Keras optimizer, not yet built.
        seed: int, decides initial weights and batches.
        steps: int. Defaults to `None`: those of the task.

    Returns:
        `(rows, first)`: a dict per evaluation with step, seconds and losses, and the seconds
        of the first step.
    """
    keras.backend.clear_session()
    steps = steps or task.steps
    data, model = task.data, task.model(seed)
    model.compile(optimizer=optimizer, loss=task.loss, jit_compile=False)
    evaluate = task.evaluator(model)
    per_epoch = len(data.x) // task.batch_size
    wanted, rows = points(steps), []
    seconds = first = 0.0
    for step in range(steps + 1):
        if step in wanted:
            rows.append({"step": step, "seconds": seconds, **evaluate()})
        if step == steps:
            break
        begin = time.process_time()
        epoch, i = divmod(step, per_epoch)
        if not i:
            batches = epoch_batches(len(data.x), task.batch_size, seed, epoch)
        loss = model.train_on_batch(data.x[batches[i]], data.y[batches[i]])
        taken = time.process_time() - begin
        if step:
            seconds += taken
        else:
            first = taken
        if not math.isfinite(loss):
            nothing = dict.fromkeys(("loss", "val_loss", "val_accuracy"), math.nan)
            rows.append({"step": step + 1, "seconds": seconds, **nothing})
            break
    return rows, first


def step_times(task, optimizers):
    """Returns the milliseconds of a step with each optimizer, `{name: milliseconds}`.

    All train from the same start for as long, in turns of some steps: what else the machine
    does then slows all of them. Only the first step is left out, so that what an optimizer
    does more often at first counts in full.

    Args:
        task: `Task`.
        optimizers: `{name: Keras optimizer}`, not yet built.
    """
    keras.backend.clear_session()
    data, models = task.data, {}
    for name, optimizer in optimizers.items():
        models[name] = model = task.model(0)
        model.compile(optimizer=optimizer, loss=task.loss, jit_compile=False)
    batches = epoch_batches(len(data.x), task.batch_size, 0, 0)
    steps, seconds = min(task.steps, _TIMED), dict.fromkeys(models, 0.0)
    for start in range(0, steps, _TURN):
        for name, model in models.items():
            for step in range(start, min(start + _TURN, steps)):
                own = batches[step % len(batches)]
                begin = time.process_time()
                model.train_on_batch(data.x[own], data.y[own])
                seconds[name] += (time.process_time() - begin) * (step > 0)
    return {name: round(1000 * total / (steps - 1), 3) for name, total in seconds.items()}
