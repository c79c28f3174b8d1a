"""LayerScale, of the ConvNeXt models of keras.applications: a scale per channel, alone."""

import inspect

import keras

from keras_proxprop.blocks.scaling import SlopeBlock


def _classes():
    """Returns Keras's class, which has no public name, from beside the models made of it."""
    module = inspect.getmodule(keras.applications.ConvNeXtTiny)
    layer_class = getattr(module, "LayerScale", None)
    return () if layer_class is None else (layer_class,)


class LayerScaleBlock(SlopeBlock):
    """`LayerScale`: `z = x · gamma`."""

    layer_classes = _classes()
    names = ("gamma",)

    def others(self, z):
        return list(range(len(z.shape) - 1))
