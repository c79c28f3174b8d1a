"""Mends `LossScaleOptimizer`, which counts the inner optimizer's variables before loading."""

import functools

import keras

from keras_proxprop.keras_seams.optimizer_state import arrays_of


def install():
    """Has it load variables of memory that are not made yet; a second call changes nothing."""
    loads = keras.optimizers.LossScaleOptimizer.load_own_variables
    saves = keras.optimizers.LossScaleOptimizer.save_own_variables
    if hasattr(loads, "_proxprop"):
        return

    @functools.wraps(saves)
    def save_own_variables(self, store):
        saves(self, store)
        curvatures = getattr(self.inner_optimizer, "_curvatures", None)
        for name, array in (curvatures.made_for() if curvatures else {}).items():
            store[name] = array

    @functools.wraps(loads)
    def load_own_variables(self, store):
        curvatures = getattr(self.inner_optimizer, "_curvatures", None)
        if curvatures:
            # The variables of memory come last.
            first = len(self.variables) - len(curvatures.variables)
            saved, named = arrays_of(store)
            curvatures.load({**curvatures.named(saved[first:]), **named})
            saved[first:] = [v.numpy() for v in curvatures.variables]
            store = {str(i): array for i, array in enumerate(saved)}
        loads(self, store)

    load_own_variables._proxprop = True
    keras.optimizers.LossScaleOptimizer.load_own_variables = load_own_variables
    keras.optimizers.LossScaleOptimizer.save_own_variables = save_own_variables
