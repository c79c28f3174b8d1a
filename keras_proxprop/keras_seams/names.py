"""Keras's table of the optimizers that it knows by name."""

from keras.src.optimizers import ALL_OBJECTS_DICT


def known_by_name(optimizer_class):
    """Decorates an optimizer class that Keras is to make by its name, in any case."""
    ALL_OBJECTS_DICT[optimizer_class.__name__.lower()] = optimizer_class
    return optimizer_class
