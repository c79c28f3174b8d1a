"""Layers for random nets: how to make each, and how its outputs follow from its weights."""

import dataclasses

import keras
from keras import layers

from keras_proxprop.keras_seams.unlisted_layers import layer_scale_classes


class LayerScale(*layer_scale_classes()):
    """Keras's, which doesn't say its outputs' shape."""

    def compute_output_shape(self, shape):
        return shape


class Twice(layers.Layer):
    """A layer that is called on its own output: one problem of two calls' rows."""

    def __init__(self, inner, dtype=None):
        super().__init__(dtype=dtype)
        self.inner = inner

    def build(self, shape):
        self.inner.build(shape)

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        return self.inner(keras.ops.tanh(self.inner(x)))


class Parallel(layers.Layer):
    """Two layers that read the same tensor: one matrix, more columns."""

    def __init__(self, first, second, dtype=None):
        super().__init__(dtype=dtype)
        self.first, self.second = first, second

    def build(self, shape):
        self.first.build(shape)
        self.second.build(shape)

    def compute_output_shape(self, shape):
        return self.first.compute_output_shape(shape)

    def call(self, x):
        return self.first(x) + keras.ops.sin(self.second(x))


class Attention(layers.Layer):
    """Self-attention."""

    def __init__(self, attention, dtype=None):
        super().__init__(dtype=dtype)
        self.attention = attention

    def build(self, shape):
        self.attention.build(query_shape=shape, value_shape=shape)

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        return x + self.attention(x, x)


class LookupAndProjection(layers.Layer):
    """A language model's embedding: what is looked up is projected onto the vocabulary."""

    def __init__(self, embedding, dtype=None):
        super().__init__(dtype=dtype)
        self.embedding = embedding

    def build(self, shape):
        self.embedding.build(shape)

    def compute_output_shape(self, shape):
        return (*shape, self.embedding.input_dim)

    def call(self, ids):
        return self.embedding(keras.ops.tanh(self.embedding(ids)), reverse=True)


@dataclasses.dataclass(frozen=True)
class Made:
    """How to make a layer: the name of its class, its arguments, and the layer inside it."""

    name: str
    arguments: dict
    inside: "Made | None" = None

    def layer(self, dtype):
        if self.inside:
            return self.around(self.inside.layer(dtype), dtype)
        if self.name == "Twice":
            return Twice(layers.Dense(**self.arguments, dtype=dtype), dtype)
        if self.name == "Parallel":
            both = [layers.Dense(**self.arguments, dtype=dtype) for _ in range(2)]
            return Parallel(*both, dtype)
        if self.name in ("MultiHeadAttention", "GroupQueryAttention"):
            inner = getattr(layers, self.name)(**self.arguments, dtype=dtype)
            return Attention(inner, dtype)
        if self.name == "LookupAndProjection":
            inner = layers.ReversibleEmbedding(**self.arguments, dtype=dtype)
            return LookupAndProjection(inner, dtype)
        if self.name == "LayerScale":
            return LayerScale(**self.arguments, dtype=dtype)
        return getattr(layers, self.name)(**self.arguments, dtype=dtype)

    def around(self, layer, dtype):
        return getattr(layers, self.name)(layer, **self.arguments, dtype=dtype)

    @property
    def kinds(self):
        """The names of the layer's class and of those inside it."""
        return (self.name, *(self.inside.kinds if self.inside else ()))

    @property
    def takes_ids(self):
        return self.name in ("Embedding", "LookupAndProjection")

    @property
    def is_composite(self):
        """Whether more than a product is between its inputs and outputs."""
        parts = ("Twice", "Parallel", "Attention", "Separable", "RNN", "LSTM", "GRU")
        parts += ("Normalization", "LookupAndProjection")
        return any(part in kind for part in parts for kind in self.kinds)

    def copies(self):
        """Returns layers in float64 that one after the other are linear in their weights."""
        if self.name == "TimeDistributed":
            return [self.around(copy, "float64") for copy in self.inside.copies()]
        if not self.name.startswith("Separable"):
            return [self.layer("float64")]
        arguments = dict(self.arguments)
        filters, order = arguments.pop("filters"), self.name[-2]
        bias = arguments.pop("use_bias")
        depthwise = getattr(layers, f"DepthwiseConv{order}D")
        pointwise = getattr(layers, f"Conv{order}D")
        return [
            depthwise(**arguments, use_bias=False, dtype="float64"),
            pointwise(filters, 1, use_bias=bias, dtype="float64"),
        ]
