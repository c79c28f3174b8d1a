"""The tasks and the optimizers of `time_to_target.py`."""

import dataclasses
import math
from collections.abc import Callable

import keras

from keras_proxprop import ProxProp
from parts import models


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained: a model, made for a shape of images, and how.

    Args:
        what: the task in words.
        model: function of the images' shape.
        batch_size: of all optimizers.
        loss: of every example.
        reconstruction: whether the targets are the images themselves.
        starts: where an optimizer's grid has its middle, other than in `CONTENDERS`.
    """

    what: str
    model: Callable
    batch_size: int
    loss: Callable = models.class_loss
    reconstruction: bool = False
    starts: dict = dataclasses.field(default_factory=dict)


def _mlp(shape):
    return models.mlp(shape, 1000, 1000, 1000)


def _vit(shape):
    # 16 patches: of 7×7 pixels where the image has 28×28.
    return models.small_vit(shape, patch=shape[0] // 4)


TASKS = {
    "mlp64": Task("MLP 784-1000-1000-1000-10", _mlp, 64),
    "mlp500": Task("MLP 784-1000-1000-1000-10", _mlp, 500),
    "autoencoder": Task(
        "autoencoder 784-1000-500-250-30-250-500-1000-784, tanh",
        models.deep_autoencoder,
        500,
        models.image_loss,
        True,
        # Their steps grow with the loss, which is a sum over 784 pixels.
        {"nesterov": {"learning_rate": 1e-3}, "kfac-jax": {"learning_rate": 3e-3}},
    ),
    "convnet": Task("the paper's ConvNet", models.paper_convnet, 500),
    "resnet": Task("small ResNet, batch normalization", models.small_resnet, 64),
    "sequence": Task("Dense 256-256 on the rows of an image", models.row_mlp, 64),
    "vit": Task("small ViT, two blocks, 16 patches", _vit, 64),
}


@dataclasses.dataclass(frozen=True)
class Contender:
    """An optimizer, and its arguments that are tuned one after the other.

    Args:
        make: function of the tuned arguments that returns the optimizer. `None` for
            kfac-jax, which runs elsewhere.
        start: `{argument: the middle of its grid}`.
        tasks: those it can train. Defaults to `None`: all.
    """

    make: Callable | None
    start: dict
    tasks: tuple | None = None


_LEARNING_RATE = {"learning_rate": 1e-3}


def nesterov(learning_rate):
    return keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True)


def muon(learning_rate):
    # Its documentation asks for AdamW on the output layer, and it takes that for all that
    # is not a matrix.
    return keras.optimizers.Muon(learning_rate, exclude_layers=["logits"])


# {name: Contender}; those of ProxProp are only more of them.
PROXPROP = {
    # What somebody gets who types nothing.
    "proxprop-untuned": Contender(ProxProp, {}),
    "proxprop": Contender(ProxProp, _LEARNING_RATE),
    "proxprop-tau": Contender(ProxProp, {**_LEARNING_RATE, "tau": 1.0}),
    # Every batch's own Gram matrix, as in the paper.
    "proxprop-batch": Contender(
        lambda learning_rate: ProxProp(None, learning_rate, memory=None), _LEARNING_RATE
    ),
}
CONTENDERS = {
    "adam": Contender(keras.optimizers.Adam, _LEARNING_RATE),
    "adamw": Contender(keras.optimizers.AdamW, _LEARNING_RATE),
    "nesterov": Contender(nesterov, {"learning_rate": 0.1}),
    "muon": Contender(muon, _LEARNING_RATE),
    "lion": Contender(keras.optimizers.Lion, {"learning_rate": 1e-4}),
    "kfac-jax": Contender(
        None,
        {"learning_rate": 0.03, "damping": 1.0},
        tasks=("mlp64", "mlp500", "autoencoder"),
    ),
    **PROXPROP,
}

# Factor between neighbours on the grid of an argument.
_RATIO = {"learning_rate": math.sqrt(10), "tau": 10.0, "damping": 10.0}
# The grid is start · ratio^(-1, 0, 1), and goes on while the best is at its end: to ±3.
_FARTHEST = 3


def start(name, task):
    return {**CONTENDERS[name].start, **TASKS[task].starts.get(name, {})}


def trials(name, task, losses, farthest=_FARTHEST):
    """Returns what is to be tried next, `[arguments]`, none when all is tuned.

    Args:
        name: of the contender.
        task: name of the task.
        losses: `{text of arguments: final training loss}` of what was tried.
        farthest: how many steps from its middle a grid may go.
    """
    return _walk(name, task, losses, farthest)[0]


def tuned(name, task, losses, farthest=_FARTHEST):
    """Returns the best arguments, as far as they were tried."""
    return _walk(name, task, losses, farthest)[1]


def _walk(name, task, losses, farthest):
    best = start(name, task)
    for argument, middle in list(best.items()):

        def at(k, argument=argument, middle=middle, best=best):
            return {**best, argument: float(f"{middle * _RATIO[argument] ** k:.3g}")}

        ks = [-1, 0, 1]
        while True:
            missing = [at(k) for k in ks if text(at(k)) not in losses]
            if missing:
                return missing, best
            # What diverged is no number, and worse than any.
            k = min(ks, key=lambda k: _inf_for_nan(losses[text(at(k))]))
            if abs(k) == farthest or k not in (ks[0], ks[-1]):
                break
            ks = [k - 1, *ks] if k == ks[0] else [*ks, k + 1]
        best = at(k)
    return [], best


def _inf_for_nan(loss):
    return math.inf if math.isnan(loss) else loss


def text(arguments):
    """Returns the arguments as text."""
    return " ".join(f"{k}={v:g}" for k, v in arguments.items()) or "defaults"
