"""The networks of the examples. Final layers return logits, and are called so."""

import math

import keras
import tensorflow as tf

L = keras.layers


def _input(shape, flat=False):
    inputs = [keras.Input(shape)]
    return inputs + [L.Flatten()] if flat and len(shape) > 1 else inputs


def mlp(shape, *widths, classes=10):
    hidden = [L.Dense(width, activation="relu") for width in widths]
    return keras.Sequential([*_input(shape, flat=True), *hidden, _logits(classes)])


def paper_mlp(shape, shrink=1):
    """The paper's fully connected network, 3072-4000-1000-4000-10 on CIFAR-10."""
    return mlp(shape, *(width // shrink for width in (4000, 1000, 4000)))


def paper_convnet(shape=(32, 32, 3)):
    layers = _input(shape)
    for filters in (16, 20, 20):
        layers += [L.Conv2D(filters, 5, padding="same", activation="relu"), L.MaxPooling2D()]
    return keras.Sequential([*layers[:-1], L.Flatten(), _logits(10)])


def mobilenet():
    """Half as wide as Keras has it, at 64 pixels."""
    arguments = {"weights": None, "classes": 10, "classifier_activation": None}
    return keras.applications.MobileNet((64, 64, 3), alpha=0.5, **arguments)


def digits_cnn():
    layers = [L.Conv2D(16, 3, padding="same", activation="relu"), L.MaxPooling2D()]
    layers += [L.Conv2D(32, 3, padding="same", activation="relu"), L.Flatten()]
    return keras.Sequential(
        [*_input((8, 8, 1)), *layers, L.Dense(128, activation="relu"), _logits(10)]
    )


def deep_autoencoder(shape):
    """784-1000-500-250-30-250-500-1000-784, tanh, linear where it is narrowest."""
    layers = _input(shape, flat=True)
    for width in (1000, 500, 250, 30, 250, 500, 1000):
        layers.append(L.Dense(width, activation=None if width == 30 else "tanh"))
    return keras.Sequential([*layers, _logits(math.prod(shape))])


def _residual(x, filters, stride=1):
    """Two 3×3 convolutions with batch normalization, and what went in added to them."""
    y = L.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False)(x)
    y = L.Activation("relu")(L.BatchNormalization(momentum=0.9)(y))
    y = L.Conv2D(filters, 3, padding="same", use_bias=False)(y)
    y = L.BatchNormalization(momentum=0.9)(y)
    if stride > 1 or x.shape[-1] != filters:
        x = L.Conv2D(filters, 1, strides=stride, use_bias=False)(x)
        x = L.BatchNormalization(momentum=0.9)(x)
    return L.Activation("relu")(L.add([x, y]))


def _pooled(inputs, x, dropout=0.0):
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, _logits(10)(L.Dropout(dropout)(x) if dropout else x))


def resnet_like():
    """A stage of a wide residual network, for timing."""
    inputs = keras.Input((32, 32, 3))
    x = L.Conv2D(64, 3, padding="same", activation="relu")(inputs)
    for _ in range(2):
        x = _residual(x, 64)
    return _pooled(inputs, x)


def small_resnet(shape, dropout=0.0):
    """Three residual blocks of 16, 32 and 64 channels after a convolution of stride 2."""
    inputs = keras.Input(shape)
    x = L.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(inputs)
    x = L.Activation("relu")(L.BatchNormalization(momentum=0.9)(x))
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        x = _residual(x, filters, stride)
    return _pooled(inputs, x, dropout)


class Positions(L.Layer):
    """Adds a trained vector to every position."""

    def build(self, shape):
        self.vectors = self.add_weight(shape=shape[1:], initializer="random_normal")

    def call(self, x):
        return x + self.vectors


def small_vit(shape, patch=7, width=64, heads=4, blocks=2):
    """A vision transformer, its classes read from the mean over the positions."""
    inputs = keras.Input(shape)
    x = L.Conv2D(width, patch, strides=patch)(inputs)
    x = Positions()(L.Reshape((-1, width))(x))
    for _ in range(blocks):
        y = L.LayerNormalization()(x)
        x = L.add([x, L.MultiHeadAttention(heads, width // heads)(y, y)])
        y = L.Dense(4 * width, activation="gelu")(L.LayerNormalization()(x))
        x = L.add([x, L.Dense(width)(y)])
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    return keras.Model(inputs, _logits(10)(x))


def plain_convnet(shape):
    """Eight 3×3 convolutions without normalization, and a hidden Dense layer."""
    layers = _input(shape)
    for filters, pooled in ((16, 0), (16, 1), (32, 0), (32, 1), *[(64, 0)] * 3, (64, 1)):
        layers.append(L.Conv2D(filters, 3, padding="same", activation="relu"))
        layers += [L.MaxPooling2D()] * pooled
    return keras.Sequential([*layers, L.Flatten(), L.Dense(128, "relu"), _logits(10)])


def _normalized(x, layer):
    return L.ReLU()(L.BatchNormalization(momentum=0.9)(layer(x)))


def small_mobilenet(shape):
    """Four pairs of a depthwise and a 1×1 convolution."""
    inputs = keras.Input(shape)
    x = _normalized(inputs, L.Conv2D(16, 3, strides=2, padding="same", use_bias=False))
    for filters, stride in ((32, 1), (64, 2), (64, 1), (64, 1)):
        depthwise = L.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False)
        x = _normalized(_normalized(x, depthwise), L.Conv2D(filters, 1, use_bias=False))
    return _pooled(inputs, x)


def row_lstm(shape):
    """An LSTM that reads an image row by row."""
    rows = [keras.Input(shape), L.Reshape((shape[0], -1))]
    return keras.Sequential([*rows, L.LSTM(64), _logits(10)])


def sequence_dense():
    """Dense layers on 128 positions, for timing."""
    layers = [L.Dense(512, activation="relu"), L.Dense(512, activation="relu")]
    pooled = [L.GlobalAveragePooling1D(), _logits(10)]
    return keras.Sequential([keras.Input((128, 512)), *layers, *pooled])


def row_mlp(shape, width=256):
    """Dense layers on the rows of an image, each a position, then all positions together."""
    layers = [L.Dense(width, activation="relu") for _ in range(2)]
    rows = [keras.Input(shape), L.Reshape((shape[0], -1))]
    return keras.Sequential([*rows, *layers, L.Flatten(), _logits(10)])


def _logits(units):
    return L.Dense(units, name="logits")


def class_loss(y, logits):
    """Cross-entropy of every example."""
    return keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)


def image_loss(y, logits):
    """Cross-entropy of every image, summed over its pixels."""
    return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(y, logits), axis=-1)
