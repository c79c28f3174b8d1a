"""How each kind of Keras layer is a least-squares problem in its weights."""

import inspect

import keras

from keras_proxprop.blocks.base import Block
from keras_proxprop.blocks.convolution import ConvolutionBlock
from keras_proxprop.blocks.dense import DenseBlock
from keras_proxprop.blocks.depthwise import DepthwiseBlock
from keras_proxprop.blocks.einsum_dense import EinsumDenseBlock
from keras_proxprop.blocks.embedding import EmbeddingBlock
from keras_proxprop.blocks.generic import GenericBlock
from keras_proxprop.blocks.kernels import KernelsBlock
from keras_proxprop.blocks.layer_scale import LayerScaleBlock
from keras_proxprop.blocks.recurrent.cells import LSTMCellBlock, SimpleRNNCellBlock
from keras_proxprop.blocks.recurrent.gru import GRUCellBlock
from keras_proxprop.blocks.recurrent.layers import RecurrentBlock
from keras_proxprop.blocks.reversible_embedding import ReversibleEmbeddingBlock
from keras_proxprop.blocks.scaling import (
    BatchNormalizationBlock,
    NormalizationBlock,
    PReLUBlock,
    RMSNormalizationBlock,
)
from keras_proxprop.blocks.separable import SeparableBlock
from keras_proxprop.blocks.transposed import TransposedConvolutionBlock
from keras_proxprop.keras_seams.own_methods import reason_of_own_method

__all__ = ["Block", "GenericBlock", "KernelsBlock", "find_block", "register_block"]

_BLOCKS: dict[type, type[Block]] = {
    layer_class: block
    for block in (
        DenseBlock,
        EinsumDenseBlock,
        ConvolutionBlock,
        DepthwiseBlock,
        SeparableBlock,
        TransposedConvolutionBlock,
        EmbeddingBlock,
        ReversibleEmbeddingBlock,
        BatchNormalizationBlock,
        NormalizationBlock,
        RMSNormalizationBlock,
        PReLUBlock,
        LayerScaleBlock,
        SimpleRNNCellBlock,
        LSTMCellBlock,
        GRUCellBlock,
        RecurrentBlock,
    )
    for layer_class in block.layer_classes
}


def register_block(layer_class: type[keras.Layer], block: type[Block] = GenericBlock) -> None:
    """Gives all layers of a class implicit steps.

    The layers' outputs must be linear in their weights, unless `block` says otherwise. So an
    activation has to be a layer of its own. Subclasses that override `call`, or another method
    of the class, are not included.

    Args:
        layer_class: subclass of `keras.Layer`.
        block: subclass of `keras_proxprop.blocks.Block` that says what the rows of `A` are.
            Defaults to `GenericBlock`, which takes any such layer, by automatic
            differentiation. `KernelsBlock` is for layers with an activation between kernels.

    Raises:
        TypeError: if `layer_class` is no layer class, or `block` no block class.

    Example:

    >>> keras_proxprop.register_block(MyLinearLayer)
    """
    if not (inspect.isclass(layer_class) and issubclass(layer_class, keras.Layer)):
        raise TypeError(
            "Argument `layer_class` must be a subclass of `keras.Layer`. "
            f"Received: layer_class={layer_class!r}"
        )
    if not (inspect.isclass(block) and issubclass(block, Block)):
        raise TypeError(
            "Argument `block` must be a subclass of `keras_proxprop.blocks.Block`. "
            f"Received: block={block!r}"
        )
    _BLOCKS[layer_class] = block


def find_block(layer):
    """Returns `(block, None)` for a layer that can step implicitly, else `(None, why)`."""
    for layer_class in type(layer).__mro__:
        block = _BLOCKS.get(layer_class)
        if block is not None:
            why = reason_of_own_method(layer, layer_class) or block.reason_against(layer)
            return (None, why) if why else (block(layer), None)
    return None, f"no block for {type(layer).__name__}"
