"""Layer classes of Keras that have no public name."""

import inspect

import keras


def layer_scale_classes():
    """Returns Keras's class, which has no public name, from beside the models made of it."""
    module = inspect.getmodule(keras.applications.ConvNeXtTiny)
    layer_class = getattr(module, "LayerScale", None)
    return () if layer_class is None else (layer_class,)
