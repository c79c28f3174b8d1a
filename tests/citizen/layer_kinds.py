"""A layer of every kind, each with the shape of an item that it takes."""

import keras
import tensorflow as tf

L = keras.layers
IMAGES, SEQUENCE, TOKENS, FEATURES, VOLUMES = (6, 6, 4), (7, 5), (7,), (5,), (3, 3, 3, 2)


class Tied(keras.Layer):
    def build(self, shape):
        self.embedding = L.ReversibleEmbedding(9, 4)
        self.embedding.build(shape)

    def call(self, ids):
        return self.embedding(keras.ops.tanh(self.embedding(ids)), reverse=True)


# The kernel of an encoder is its decoder's, too.
class ReadElsewhere(keras.Layer):
    def build(self, shape):
        self.encoder = L.Dense(6, "tanh")
        self.encoder.build(shape)

    def call(self, x):
        return keras.ops.matmul(self.encoder(x), keras.ops.transpose(self.encoder.kernel))


class Twice(keras.Layer):
    def build(self, shape):
        self.shared = L.Dense(shape[-1], "tanh", kernel_regularizer="l2")
        self.shared.build(shape)

    def call(self, x):
        return self.shared(self.shared(x))


class Attention(keras.Layer):
    def build(self, shape):
        self.attention = L.MultiHeadAttention(2, 3)
        self.attention.build(shape, shape)

    def call(self, x):
        return self.attention(x, x)


class OfSparse(keras.Layer):
    def build(self, shape):
        self.dense = L.Dense(3)
        self.dense.build(shape)

    def call(self, x):
        return self.dense(tf.sparse.from_dense(tf.nn.relu(x)))


def layer_kinds():
    """Returns `{name: (shape, layer)}`, new layers with every call."""
    return {
        "sparse": (FEATURES, OfSparse()),
        "sparse and wide": ((40,), OfSparse()),
        "Dense": (FEATURES, L.Dense(3)),
        "Dense of many rows": (SEQUENCE, L.Dense(3, use_bias=False)),
        "regularized": (FEATURES, L.Dense(8, kernel_regularizer="l2", bias_regularizer="l1")),
        "EinsumDense": (SEQUENCE, L.EinsumDense("abc,bcd->abd", (7, 3), bias_axes="bd")),
        "Conv1D": (SEQUENCE, L.Conv1D(3, 3, padding="causal")),
        "Conv2D": (IMAGES, L.Conv2D(3, 3, padding="same")),
        "strides": (IMAGES, L.Conv2D(3, 3, strides=2)),
        "groups": (IMAGES, L.Conv2D(4, 3, groups=2)),
        "DepthwiseConv2D": (IMAGES, L.DepthwiseConv2D(3)),
        "SeparableConv2D": (IMAGES, L.SeparableConv2D(3, 3)),
        "Conv2DTranspose": (IMAGES, L.Conv2DTranspose(3, 3)),
        "LSTM": (SEQUENCE, L.LSTM(3)),
        "GRU": (SEQUENCE, L.GRU(3)),
        "read elsewhere": (FEATURES, ReadElsewhere()),
        "called twice": (FEATURES, Twice()),
        "Attention": (SEQUENCE, Attention()),
        "Embedding": (TOKENS, L.Embedding(9, 4)),
        "regularized Embedding": (TOKENS, L.Embedding(9, 4, embeddings_regularizer="l2")),
        "ReversibleEmbedding": (TOKENS, Tied()),
        "LayerNormalization": (SEQUENCE, L.LayerNormalization()),
        "GroupNormalization": (IMAGES, L.GroupNormalization(2)),
        "RMSNormalization": (SEQUENCE, L.RMSNormalization()),
        "BatchNormalization": (SEQUENCE, L.BatchNormalization(synchronized=True)),
        "PReLU": (IMAGES, L.PReLU(shared_axes=[1, 2])),
        "DepthwiseConv1D": (SEQUENCE, L.DepthwiseConv1D(3)),
        "SeparableConv1D": (SEQUENCE, L.SeparableConv1D(3, 3)),
        "Conv1DTranspose": (SEQUENCE, L.Conv1DTranspose(3, 3)),
        "Conv3D": (VOLUMES, L.Conv3D(2, 2)),
        "Conv3DTranspose": (VOLUMES, L.Conv3DTranspose(2, 2)),
        "SimpleRNN": (SEQUENCE, L.SimpleRNN(3)),
    }
