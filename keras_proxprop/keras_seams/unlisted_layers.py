"""Layer classes of Keras that have no public name, or not in every version."""

import inspect

import keras


def classes_named(name):
    """Returns `(keras.layers.<name>,)`, or `()` where this version of Keras has none."""
    # ReversibleEmbedding came with Keras 3.12.
    layer_class = getattr(keras.layers, name, None)
    return () if layer_class is None else (layer_class,)


def layer_scale_classes():
    """Returns Keras's `LayerScale`, which has no public name, from its models' module."""
    module = inspect.getmodule(keras.applications.ConvNeXtTiny)
    layer_class = getattr(module, "LayerScale", None)
    return () if layer_class is None else (layer_class,)
