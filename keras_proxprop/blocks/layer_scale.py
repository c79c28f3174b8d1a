"""LayerScale, from the ConvNeXt models of keras.applications: one scale per channel."""

from keras_proxprop.blocks.scaling import SlopeBlock
from keras_proxprop.keras_seams.unlisted_layers import layer_scale_classes


class LayerScaleBlock(SlopeBlock):
    """`LayerScale`: `z = x · gamma`."""

    layer_classes = layer_scale_classes()
    names = ("gamma",)

    def others(self, z):
        return list(range(len(z.shape) - 1))
