"""The table of layers in `keras_proxprop/blocks/README.md` says what is so."""

import inspect
import pathlib
import re

import keras
import pytest
from keras import layers

import keras_proxprop.blocks
from keras_proxprop.blocks import find_block
from keras_proxprop.weights import variable_of

README = pathlib.Path(keras_proxprop.blocks.__file__).with_name("README.md")
ROWS = re.findall(r"^\| (`\w+`.*?) \| ([\w ]+) \|", README.read_text(), re.MULTILINE)
TABLE = {name: step for names, step in ROWS for name in re.findall(r"`(\w+)`", names)}


OTHER_BACKENDS = layers.JaxLayer, layers.FlaxLayer, layers.TorchModuleWrapper, layers.TFSMLayer

# How to make and build a layer of every class that makes weights.
IMAGES = {1: (2, 4, 4), 2: (2, 4, 4, 4), 3: (2, 4, 4, 4, 4)}
ARGUMENTS = {
    "Dense": {"units": 2},
    "EinsumDense": {"equation": "ab,bc->ac", "output_shape": 2},
    "Embedding": {"input_dim": 3, "output_dim": 2},
    "ReversibleEmbedding": {"input_dim": 3, "output_dim": 2},
    "GroupNormalization": {"groups": 2},
    "Attention": {"use_scale": True},
    "SimpleRNNCell": {"units": 2},
    "LSTMCell": {"units": 2},
    "GRUCell": {"units": 2},
    "SimpleRNN": {"units": 2},
    "LSTM": {"units": 2},
    "GRU": {"units": 2},
    "RNN": {"cell": layers.LSTMCell(2)},
    "STFTSpectrogram": {"frame_length": 2, "frame_step": 1, "fft_length": 2},
}


def makes_weights(layer_class):
    """Returns whether the class, or one that it comes from, adds a weight."""
    own = [c for c in layer_class.__mro__ if issubclass(c, layers.Layer)]
    return any(
        "self.add_weight(" in inspect.getsource(c) for c in own if c is not layers.Layer
    )


WITH_WEIGHTS = {
    layer_class.__name__: layer_class
    for _, layer_class in inspect.getmembers(layers, inspect.isclass)
    if issubclass(layer_class, layers.Layer)
    and layer_class not in (layers.Layer, *OTHER_BACKENDS)
    and makes_weights(layer_class)
}


def build(name):
    arguments, layer_class = dict(ARGUMENTS.get(name, {})), WITH_WEIGHTS[name]
    shape = (2, 4, 3) if issubclass(layer_class, layers.RNN) else (2, 4)
    if match := re.match(r"(Depthwise|Separable)?Conv(?:LSTM)?(\d)D", name):
        shape = IMAGES[int(match[2])]
        if "LSTM" in name:
            shape = (2, *shape)
        arguments["kernel_size"] = 2
        if match[1] != "Depthwise":
            arguments["filters"] = 2
    if name == "SpectralNormalization":
        arguments["layer"] = layers.Dense(2)
    layer = layer_class(**arguments)
    layer.build([(2, 3, 4)] * 2 if name in ("Attention", "AdditiveAttention") else shape)
    return layer


def test_the_table_has_a_row_for_every_layer_that_makes_weights():
    assert set(TABLE) == set(WITH_WEIGHTS)


@pytest.mark.parametrize("name", TABLE)
def test_a_row_says_how_its_layer_steps(name):
    layer = build(name)
    block, reason = find_block(layer)
    if TABLE[name] == "implicit":
        assert reason is None
        # Some of the weights are sliced between two or three problems.
        owned = [variable_of(w).path for part in block.parts for w in part.weights]
        assert sorted(set(owned)) == sorted(w.path for w in layer.trainable_variables)
    elif TABLE[name] == "explicit":
        assert block is None and reason
        assert any(inner._trainable_variables for inner in layer._flatten_layers())
    elif TABLE[name] == "as what it wraps":
        assert find_block(layer.layer)[0]
    else:
        assert TABLE[name] == "no trainable weights"
        assert not layer._trainable_variables


def test_attention_is_made_of_layers_of_the_table():
    attention = layers.MultiHeadAttention(2, 3)
    attention.build((2, 4, 5), (2, 4, 5))
    made_of = [layer for layer in attention._flatten_layers() if layer._trainable_variables]
    assert len(made_of) == 4
    assert all(isinstance(layer, keras.layers.EinsumDense) for layer in made_of)
    assert all(find_block(layer)[0] for layer in made_of)
