"""Curvature memory: Gram matrices that are kept, averaged over batches."""

import numbers

import keras

from keras_proxprop.arguments import check_choice, check_whole
from keras_proxprop.has_config import HasConfig
from keras_proxprop.memory.averaged_gram import Averaged
from keras_proxprop.solvers import price
from keras_proxprop.solvers.auto import Auto


@keras.saving.register_keras_serializable(package="keras_proxprop")
class CurvatureMemory(HasConfig):
    """Keeps Gram matrices from step to step, in the place of the batch's own.

    With `R` the rows of a batch, `AᵀA / R` changes slowly while a model trains. Its moving
    average `Ḡ` is refreshed and factorized every so many steps; between these a layer's
    direction costs a product with a matrix beyond its weight gradient:

        P = (R Ḡ + I/τ)⁻¹ Aᵀ D

    τ means what it means without memory, since `R Ḡ` stands for `AᵀA`: where all batches
    have the same Gram matrix the two directions are equal, as they are on the first step.
    (`R` is averaged too, so that a smaller last batch takes no longer step. A changed τ
    counts from the next refresh on.) The diagonal of the average is raised by
    10⁻⁵ of itself. A batch whose `AᵀA / R` is more than ten times the average, and the one at
    the last refresh, is scaled down to that: one batch of outliers is soon forgotten. A batch
    whose loss, gradients or inputs are not finite is left out. Refreshes are many at first:
    one is due whenever the last is longer ago than a quarter of the training so far. After
    the first dozen steps layers whose refreshes are a lot of work take turns, so that no step
    is much longer than others.

    A change of `D` changes the direction in proportion. So under `tf.distribute` the
    replicas, which keep one common average, together make the step of the global batch.

    Args:
        decay: float in [0, 1), share of the average that is left after `refresh_every` steps.
            Defaults to `0.9`.
        refresh_every: int, steps from one refresh to the next. Defaults to `100`.
        layers: "auto" (default): those layers whose step is cheaper with memory than with
            the batch's own Gram matrix, by the count that `summary` prints: convolutions, what
            runs along sequences, Dense layers where a batch has three times as many rows as
            they have inputs, and on a GPU most Dense layers. They are chosen once, in the
            first training step, for its batch size, or for 64 where the batch size is smaller
            or not known beforehand. "all": all layers that have a Gram matrix.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    >>> memory = keras_proxprop.CurvatureMemory(refresh_every=20)
    >>> model.compile(optimizer=keras_proxprop.ProxProp(memory=memory), loss="mse")

    Source: the averaged metric is that of FOOF (Benzing, *Gradient Descent on Neurons
    and its Link to Approximate Second-Order Optimization*, ICML 2022).
    """

    def __init__(
        self, decay: float = 0.9, refresh_every: int = 100, layers: str = "auto"
    ) -> None:
        number = isinstance(decay, numbers.Real) and not isinstance(decay, bool)
        if not number or not 0 <= decay < 1:
            raise ValueError(
                f"Argument `decay` must be a float in [0, 1). Received: decay={decay!r}"
            )
        self.decay = float(decay)
        self.refresh_every = check_whole("refresh_every", refresh_every)
        self.layers = check_choice("layers", layers, ("auto", "all"))

    def get_config(self):
        return {
            "decay": self.decay,
            "refresh_every": self.refresh_every,
            "layers": self.layers,
        }

    def solver(self, rows, columns, solver, state=None, batch_size=price.TYPICAL):
        """Returns the solver for layers with these rows: `solver`, or an `Averaged`.

        Args:
            rows: `Rows`.
            columns: number of output columns.
            solver: `Solver` that solves with the batch's own rows.
            state: function that returns the `AveragedGram` to use; `None` to only `choose`.
            batch_size: the batch size for which to choose.
        """
        averaged = Averaged(solver, self.refresh_every, state)
        if rows.closed_form or not rows.can_average:
            return solver
        if self.layers == "all" or averaged.pays(rows, columns, batch_size):
            return averaged
        return solver


def check_memory(memory, solver) -> CurvatureMemory | None:
    """Returns `memory` as a `CurvatureMemory` or `None`."""
    if isinstance(memory, str) and memory == "auto":
        return CurvatureMemory() if isinstance(solver, Auto) else None
    if memory is not None and not isinstance(memory, CurvatureMemory):
        raise TypeError(
            "Argument `memory` must be 'auto', None or a `keras_proxprop.CurvatureMemory`. "
            f"Received: memory={memory!r} (of type {type(memory).__name__})"
        )
    if memory is not None and not solver.factorizes:
        raise ValueError(
            "Argument `memory` keeps factorized Gram matrices, for which conjugate gradients "
            "have no use: choose solver='auto' or 'exact', or memory=None. "
            f"Received: memory={memory!r}, solver={solver!r}"
        )
    return memory
