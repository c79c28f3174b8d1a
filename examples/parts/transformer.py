"""The layers that the transformers of the examples are made of."""

import keras

L = keras.layers


def with_places(x):
    """Adds an embedding of its place to every item of a sequence."""
    length, width = x.shape[1:]
    return x + L.Embedding(length, width, name="places")(keras.ops.arange(length)[None])


def block(x, heads, causal=False):
    """One layer of a pre-norm transformer."""
    width = x.shape[-1]
    y = L.LayerNormalization()(x)
    x = x + L.MultiHeadAttention(heads, width // heads)(y, y, use_causal_mask=causal)
    y = L.Dense(4 * width, activation="gelu")(L.LayerNormalization()(x))
    return x + L.Dense(width)(y)
