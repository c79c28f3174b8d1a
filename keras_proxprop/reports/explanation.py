"""What `fit` says of a model, once: how much of it steps implicitly, and what is slowest."""

import collections
import logging
import math
import weakref

import keras
import tensorflow as tf

from keras_proxprop.solvers.price import backpropagation, known_count
from keras_proxprop.weights import weight_key

# The `Explanation` of every `ProxProp`'s first step, or `None` once it has been said.
_of_optimizer: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def step_arguments(model, proxprop):
    """Returns the arguments of a training step's tape, which notes prices in the first."""
    arguments = proxprop.step_arguments()
    # Keras makes a new history where `fit` begins, and fills it when an epoch ends.
    begins = not getattr(getattr(model, "history", None), "epoch", True)
    if begins and proxprop not in _of_optimizer:
        _of_optimizer[proxprop] = Explanation(model, arguments["observer"])
        arguments["observer"] = _of_optimizer[proxprop]
    return arguments


def say(proxprop):
    """Says what was noted, if `fit` shows anything.

    It does so in the first step. If that step was in a `fit` that showed nothing, it does so
    at the end of the first `fit` that shows anything.
    """
    explanation = _of_optimizer.get(proxprop)
    model = explanation and explanation.model()
    if model is None or not model.history.params.get("verbose"):
        return
    _of_optimizer[proxprop] = None
    # Of several workers, only one says it.
    if tf.distribute.get_strategy().extended.should_save_summary and explanation.layers:
        shown = keras.config.is_interactive_logging_enabled()
        (print if shown else logging.getLogger("keras_proxprop").info)(str(explanation))


class Explanation:
    """Notes what the implicit steps of one training step are, and what they cost.

    Args:
        model: `keras.Model`.
        observer: another object that looks at every implicit solve, or `None`.
    """

    def __init__(self, model, observer):
        # A weak reference, since `_of_optimizer` lives as long as the model's optimizer.
        self.model = weakref.ref(model)
        self._observer = observer
        self._weights: dict = {}
        # `{layer's name: [cost of its step beyond backpropagation, cost of backpropagation]}`.
        self.layers: collections.defaultdict = collections.defaultdict(lambda: [0.0, 0.0])

    def observe(self, problem, rows, solver):
        """Notes a problem that is solved, as `StepMonitor.observe` does."""
        _, extra = solver.choice(rows, problem.columns)
        for member in problem.members:
            columns = member.block.columns
            costs = self.layers[member.block.reported_as.name]
            # Layers that share a Gram matrix share its price.
            costs[0] += extra * columns / problem.columns
            costs[1] += backpropagation(rows, columns, known_count(rows))
            self._weights |= {weight_key(w): math.prod(w.shape) for w in member.weights}
        return self._observer.observe(problem, rows, solver) if self._observer else solver

    def __str__(self):
        weights = sum(math.prod(w.shape) for w in self.model().trainable_weights)
        slowest, (extra, own) = max(self.layers.items(), key=lambda item: sum(item[1]))
        return (
            f"ProxProp: {sum(self._weights.values()) / weights:.1%} of the trainable weights "
            f"step implicitly; the slowest of their layers is {slowest!r}, with an estimated "
            f"extra cost of {extra / own:.2f} × its backpropagation. "
            "`keras_proxprop.summary(model)` lists all."
        )
