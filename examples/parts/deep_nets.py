"""Small deep nets of convolutions with batch normalization, as image nets are built.

Each takes images of 32 by 32 pixels to ten classes. They differ in what lies between two
normalizations.
"""

import keras

L = keras.layers


def _convolved(x, filters, size=3, strides=1, **how):
    x = L.Conv2D(filters, size, strides, padding="same", use_bias=False, **how)(x)
    return L.BatchNormalization()(x)


def _activated(x, *args, activation="relu", **how):
    return L.Activation(activation)(_convolved(x, *args, **how))


def _net(body):
    images = keras.Input((32, 32, 3))
    x = body(_activated(images, 16, strides=2))
    return keras.Model(images, L.Dense(10, "softmax")(L.GlobalAveragePooling2D()(x)))


def plain():
    """21 convolutions, each of which is normalized."""

    def body(x):
        for i in range(20):
            x = _activated(x, 16 if i < 10 else 32, strides=2 if i in (5, 10) else 1)
        return x

    return _net(body)


def residual():
    """51 convolutions in residual blocks, each of which is normalized (ResNet50)."""

    def body(x):
        for filters in (8, 16):
            x = _activated(x, 4 * filters, 1, strides=2)
            for _ in range(8):
                y = _activated(_activated(x, filters, 1), filters)
                x = L.ReLU()(L.Add()([x, _convolved(y, 4 * filters, 1)]))
        return x

    return _net(body)


def preactivated():
    """35 convolutions in residual blocks that begin with a normalization (ResNetV2)."""

    def body(x):
        for filters in (32, 64):
            x = L.Conv2D(filters, 1, strides=2)(x)
            for _ in range(8):
                y = L.ReLU()(L.BatchNormalization()(x))
                x = L.Add()([x, L.Conv2D(filters, 3, padding="same")(_activated(y, filters))])
        return L.ReLU()(L.BatchNormalization()(x))

    return _net(body)


def gated():
    """51 convolutions, with 16 gates of two more (EfficientNet)."""

    def scaled():
        return {"kernel_initializer": keras.initializers.VarianceScaling(2, "fan_out")}

    def body(x):
        for filters in (16, 24):
            x = _convolved(x, filters, 1, strides=2, **scaled())
            for _ in range(8):
                y = _activated(x, 4 * filters, 1, activation="swish", **scaled())
                y = L.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
                y = L.Activation("swish")(L.BatchNormalization()(y))
                gate = L.GlobalAveragePooling2D(keepdims=True)(y)
                gate = L.Conv2D(filters // 4, 1, activation="swish")(gate)
                gate = L.Conv2D(4 * filters, 1, activation="sigmoid")(gate)
                y = _convolved(L.Multiply()([y, gate]), filters, 1, **scaled())
                x = L.Add()([x, y])
        return x

    return _net(body)


NETS = {net.__name__: net for net in (plain, residual, preactivated, gated)}
