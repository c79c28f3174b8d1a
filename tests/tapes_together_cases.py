"""A net of every kind of layer, and the gradients and directions of one tape alone."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_proxprop import ImplicitGradientTape, register_block

TAU = 0.5
WRAPS = {"eager": lambda f: f, "graph": tf.function}


@keras.saving.register_keras_serializable(package="tests")
class OwnLinear(layers.Layer):
    """A layer of a user's, with the block that any layer can have."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 2))

    def call(self, x):
        return tf.matmul(x, tf.convert_to_tensor(self.w))


register_block(OwnLinear)
TOKENS = np.array([[1, 0, 2], [2, 2, 4]])

# One layer for every way in which a block hides its weights, and the inputs' shape.
KINDS = {
    "dense": (lambda: layers.Dense(3, "tanh"), (4, 3)),
    "dense-frozen-bias": (lambda: frozen_bias(layers.Dense(3, "tanh")), (4, 3)),
    "einsum": (lambda: layers.EinsumDense("abc,cd->abd", (3, 2), bias_axes="d"), (2, 3, 2)),
    "convolution": (lambda: layers.Conv1D(2, 2, activation="tanh"), (2, 4, 2)),
    "depthwise": (lambda: layers.DepthwiseConv1D(2), (2, 4, 2)),
    "separable": (lambda: layers.SeparableConv1D(3, 2), (2, 4, 2)),
    "transposed": (lambda: layers.Conv1DTranspose(2, 2, strides=2), (2, 3, 2)),
    "embedding": (lambda: layers.Embedding(5, 2), TOKENS),
    "reversible-embedding": (lambda: layers.ReversibleEmbedding(5, 2), TOKENS),
    "simple-rnn": (lambda: layers.SimpleRNN(2), (2, 3, 2)),
    "lstm": (lambda: layers.LSTM(2), (2, 3, 2)),
    "gru": (lambda: layers.GRU(2), (2, 3, 2)),
    "gru-reset-before": (lambda: layers.GRU(2, reset_after=False), (2, 3, 2)),
    "batch-norm": (lambda: layers.BatchNormalization(), (4, 3)),
    "layer-norm": (lambda: layers.LayerNormalization(), (4, 3)),
    "prelu": (lambda: layers.PReLU(), (4, 3)),
    "own": (lambda: OwnLinear(), (4, 3)),
    "attention": (lambda: SelfAttention(), (2, 3, 2)),
}


class SelfAttention(layers.Layer):
    def build(self, shape):
        self.inner = layers.MultiHeadAttention(2, 2, use_bias=False)
        self.inner.build(shape, shape)

    def call(self, x):
        return self.inner(x, x)


def frozen_bias(layer):
    layer.build((None, 3))
    layer.bias.trainable = False
    return layer


class Net:
    """A layer of some kind and a Dense layer, with a loss that is not a square."""

    def __init__(self, kind):
        keras.utils.set_random_seed(0)
        make, shape = KINDS[kind]
        random = np.random.default_rng(0)
        tokens = not isinstance(shape, tuple)
        self.x = tf.constant(shape if tokens else random.normal(size=shape))
        self.last = layers.Dense(2, "tanh")
        self.model = keras.Sequential([make(), layers.Flatten(), self.last])
        self.model(self.x)
        self.weights = self.model.trainable_variables
        for v in self.weights:
            v.assign(0.5 * random.normal(size=v.shape))
        self.sources = self.weights if tokens else [*self.weights, self.x]

    def loss(self):
        y = self.model(self.x, training=True)
        return tf.reduce_mean(y**2 + tf.sin(3 * y))


def arrays(values):
    return [None if v is None else tf.convert_to_tensor(v).numpy() for v in values]


def assert_all_close(actual, expected, tolerance=1e-10):
    assert len(actual) == len(expected)
    for a, e in zip(arrays(actual), arrays(expected)):
        assert (a is None) == (e is None)
        if e is not None:
            np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance * abs(e).max())


def alone(net, make):
    with make() as tape:
        tape.watch(net.x)
        loss = net.loss()
    return tape.gradient(loss, net.sources)


def implicit(net, **options):
    return ImplicitGradientTape(
        net.model, **{"tau": TAU, "final_layer": "implicit", **options}
    )
