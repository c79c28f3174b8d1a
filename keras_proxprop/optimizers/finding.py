"""Finds the `ProxProp` in the optimizer that a model is compiled with."""

import keras

from keras_proxprop.keras_seams.names import MULTI_OPTIMIZER
from keras_proxprop.optimizers.proxprop import ProxProp


def find_proxprop(optimizer):
    """Returns the `ProxProp`, which may be inside of a `LossScaleOptimizer`, or `None`."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if isinstance(optimizer, MULTI_OPTIMIZER):
        if any(isinstance(each, ProxProp) for each in optimizer.optimizers):
            raise ValueError(
                "A MultiOptimizer hands on plain gradients, with which a ProxProp in it takes "
                "no implicit steps. Compile with `ProxProp(MultiOptimizer(...))`, and name "
                "the layers that are to take explicit steps in `exclude`. "
                f"Received: optimizer={optimizer!r}"
            )
    return optimizer if isinstance(optimizer, ProxProp) else None
