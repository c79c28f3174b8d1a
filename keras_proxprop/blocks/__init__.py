"""How each kind of Keras layer is a least-squares problem in its weights."""

from keras_proxprop.blocks.convolution import ConvolutionBlock
from keras_proxprop.blocks.dense import DenseBlock

_BLOCKS = (DenseBlock, ConvolutionBlock)


def find_block(layer):
    """Returns `(block, None)` for a layer that can step implicitly, else `(None, why)`."""
    for block_class in _BLOCKS:
        if isinstance(layer, block_class.layer_classes):
            why = block_class.reason_against(layer)
            return (None, why) if why else (block_class(layer), None)
    return None, f"no block for {type(layer).__name__}"
