"""The names of Keras's optimizers."""

import keras
from keras.src.optimizers import ALL_OBJECTS_DICT

# It came with Keras 3.15; nothing is an instance of `()`.
MULTI_OPTIMIZER = getattr(keras.optimizers, "MultiOptimizer", ())


def known_by_name(optimizer_class):
    """Decorates an optimizer class that Keras is to make by its name, in any case."""
    ALL_OBJECTS_DICT[optimizer_class.__name__.lower()] = optimizer_class
    return optimizer_class
