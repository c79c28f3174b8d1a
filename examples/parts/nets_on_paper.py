"""Large nets whose steps are counted and not run, with the batch of one device."""

import keras

from parts.models import mlp
from parts.transformer import block, with_places

L = keras.layers


def mlp_4096():
    return mlp((4096,), *[4096] * 4)


def resnet50():
    return keras.applications.ResNet50(weights=None)


def vit_b():
    inputs = keras.Input((224, 224, 3))
    x = with_places(L.Reshape((196, 768))(L.Conv2D(768, 16, strides=16)(inputs)))
    for _ in range(12):
        x = block(x, 12)
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    return keras.Model(inputs, L.Dense(1000)(x))


def gpt2_small():
    inputs = keras.Input((1024,), dtype="int32")
    tokens = L.ReversibleEmbedding(50257, 768)
    x = with_places(tokens(inputs))
    for _ in range(12):
        x = block(x, 12, causal=True)
    return keras.Model(inputs, tokens(L.LayerNormalization()(x), reverse=True))
