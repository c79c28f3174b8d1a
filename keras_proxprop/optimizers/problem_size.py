"""The size of the least-squares problem that a direction comes from."""

import contextlib
import dataclasses
import math
import typing

import tensorflow as tf

from keras_proxprop.weights import variable_key


@dataclasses.dataclass(frozen=True)
class ProblemSize:
    """The size of the problem that a weight belongs to.

    Attributes:
        row_count: number of rows, of all replicas: an int, a scalar tensor, or `None` where
            it is known only in a graph that is not this one.
        per_item: rows per item of the batch.
        features, columns: numbers of rows and columns of the weights as a matrix.
        implicit: whether the weight has an implicit direction.
        lookup: whether the rows of the weight are looked up, as an embedding's are.
        labels: number of labels per item: rows of the last layer, one per token for texts.
        depth: number of linear maps that step, or `None` where it is not known.
        normalized: number of those that a batch normalization is called after.
        runs: number of runs of these: each whose own outputs are normalized, and each group
            of others between two batch normalizations.
        of_images: whether it is a convolution's.
        is_normalized: whether the outputs are batch normalized.
        final: whether it is a final layer's.
    """

    row_count: typing.Any
    per_item: int
    features: int
    columns: int
    implicit: bool
    lookup: bool = False
    labels: int = 1
    depth: int | None = None
    normalized: int = 0
    runs: int = 0
    of_images: bool = False
    is_normalized: bool = False
    final: bool = False

    @classmethod
    def of_shape(cls, shape, others=()):
        """Returns a guess for a variable that belongs to no problem.

        Args:
            shape: the variable's.
            others: sizes of other variables' problems, in the same step.
        """
        guess = cls(None, 1, *as_matrix(shape), implicit=False)
        other = next((s for s in others if s and s.row_count is not None), guess)
        of_step = ("row_count", "per_item", "labels", "depth", "normalized", "runs")
        return dataclasses.replace(guess, **{name: getattr(other, name) for name in of_step})


def as_matrix(shape):
    """Returns `(features, columns)` of a weight, from its shape alone."""
    return math.prod(shape[:-1]), shape[-1] if len(shape) else 1


class KnowsSizes:
    """An optimizer that makes its steps by the size of the problems they come from."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._sizes = _Sizes()

    @contextlib.contextmanager
    def directions_of(self, variables, sizes):
        """Makes steps with implicit directions while its context lasts.

        Args:
            variables: the variables that the directions belong to.
            sizes: list of the `ProblemSize` of each, or `None` where there is no problem.
        """
        self._sizes.of = dict(zip(map(variable_key, variables), sizes))
        try:
            yield
        finally:
            self._sizes.of = {}

    # Inside of a user's `tf.function`, AutoGraph would rewrite it.
    @tf.autograph.experimental.do_not_convert
    def apply(self, grads, trainable_variables=None):
        self._sizes.made = {}
        try:
            return super().apply(grads, trainable_variables)
        finally:
            self._sizes.made = None

    def once(self, key, make):
        """Returns what `make()` returns, and makes it once in a step.

        Args:
            key: what tells it from others.
            make: function of nothing.
        """
        if self._sizes.made is None:
            return make()
        # A tensor belongs to the graph that it was made in.
        key = key, tf.compat.v1.get_default_graph()
        if key not in self._sizes.made:
            self._sizes.made[key] = make()
        return self._sizes.made[key]

    def size_of(self, variable):
        """Returns the `ProblemSize` of a variable, as far as it is known or can be guessed."""
        size = self._sizes.of.get(variable_key(variable))
        return size or ProblemSize.of_shape(variable.shape, self._sizes.of.values())

    def factor(self, size, variable):
        """Returns by what the learning rate is multiplied for a variable."""
        raise NotImplementedError


@contextlib.contextmanager
def sizes_known(optimizers, variables, sizes):
    """Context in which those of the optimizers that use problem sizes know them.

    Args:
        optimizers: `keras.optimizers.Optimizer`s.
        variables: the variables that directions are applied to.
        sizes: function that returns the `ProblemSize` of each, called where it is needed.
    """
    asking = [optimizer for optimizer in optimizers if isinstance(optimizer, KnowsSizes)]
    known = sizes() if asking else []
    with contextlib.ExitStack() as steps:
        for optimizer in asking:
            steps.enter_context(optimizer.directions_of(variables, known))
        yield


class _Sizes:
    """What is known of the step being made: no state for Keras to track.

    Attributes:
        of: `{key of a variable: size}`.
        made: what is made once a step, or `None` where no step is being made.
    """

    def __init__(self):
        self.of = {}
        self.made = None
