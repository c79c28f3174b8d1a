"""The names of Keras's optimizers."""

import keras
from keras.src.optimizers import ALL_OBJECTS_DICT

# `MultiOptimizer` came with Keras 3.15. Without it, nothing is an instance of `()`.
MULTI_OPTIMIZER = getattr(keras.optimizers, "MultiOptimizer", ())


def known_by_name(optimizer_class):
    """Decorates an optimizer class, which Keras then finds by its name in any case."""
    ALL_OBJECTS_DICT[optimizer_class.__name__.lower()] = optimizer_class
    return optimizer_class
