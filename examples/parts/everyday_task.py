"""A task of `everyday.py`: what is trained, on what, and for how long."""

import dataclasses
import functools
import math
from collections.abc import Callable

import keras
import tensorflow as tf

from keras_proxprop import ImplicitGradientTape, ProxProp
from parts.training import Evaluation


@dataclasses.dataclass(frozen=True)
class Task:
    """A small model, its data, and how many steps it is trained for.

    Args:
        what: the task in words.
        make: function that returns the model; the seed has been set.
        load: function that returns the `Data`.
        batch_size: of all optimizers.
        steps: of the whole budget.
        loss: function of targets and outputs that returns every example's loss.
        evaluated: how many training examples the loss is told of, and how many of validation.
        evaluation: what tells the losses, made of model, loss and data.
        prepare: what has to be made before the seed is set: weights of a trained base.
        slow_for: names of contenders whose steps take many times those of others here.
    """

    what: str
    make: Callable
    load: Callable
    batch_size: int
    steps: int
    loss: Callable
    evaluated: int = 2048
    evaluation: Callable = Evaluation
    prepare: Callable = lambda: None
    slow_for: tuple = ()

    def model(self, seed):
        """Returns the model with the weights that this seed draws."""
        self.prepare()
        keras.utils.set_random_seed(seed)
        return self.make()

    @property
    def data(self):
        return _loaded(self.load)

    def evaluator(self, model):
        """Returns a function without arguments that returns the model's losses."""
        data = self.data.head(self.evaluated)
        evaluate = self.evaluation(model, self.loss, data)
        items = math.prod(data.y.shape[1:])

        def losses():
            found = evaluate()
            # Of a sequence every item counts.
            return found | {"val_accuracy": found["val_accuracy"] / items}

        return losses


@functools.cache
def _loaded(load):
    return load()


def square_loss(y, outputs):
    """Squared error of every example, the mean over its outputs."""
    return keras.ops.mean(keras.ops.square(outputs - y), axis=-1)


def tape_of(optimizer, model):
    """Returns the tape that an optimizer wants in a `train_step` of a model's own."""
    if isinstance(optimizer, ProxProp):
        return ImplicitGradientTape(model, **optimizer.step_arguments())
    return tf.GradientTape()


def make_step(optimizer, tape, loss, model):
    variables = model.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
