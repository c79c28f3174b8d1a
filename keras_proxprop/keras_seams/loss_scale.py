"""Mends `LossScaleOptimizer`, which counts the inner optimizer's variables before loading."""

import functools

import keras
import numpy as np


def install():
    """Has it load variables of memory that are not made yet; a second call changes nothing."""
    original = keras.optimizers.LossScaleOptimizer.load_own_variables
    if hasattr(original, "_proxprop"):
        return

    @functools.wraps(original)
    def load_own_variables(self, store):
        curvatures = getattr(self.inner_optimizer, "_curvatures", None)
        if curvatures:
            # The variables of memory come last.
            first = len(self.variables) - len(curvatures.variables)
            saved = [np.array(store[str(i)]) for i in range(len(store.keys()))]
            curvatures.load(curvatures.named(saved[first:]))
            saved[first:] = [v.numpy() for v in curvatures.variables]
            store = {str(i): array for i, array in enumerate(saved)}
        original(self, store)

    load_own_variables._proxprop = True
    keras.optimizers.LossScaleOptimizer.load_own_variables = load_own_variables
