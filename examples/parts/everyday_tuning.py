"""The everyday tasks that go on from a trained net: a frozen base, and LoRA."""

import functools

import keras

from parts import models
from parts.datasets import Data
from parts.everyday_images import fashion
from parts.everyday_task import Task

L = keras.layers


def _classes(low, high):
    """Returns Fashion-MNIST's images of some classes, which count from 0 then."""
    data = fashion()
    parts = []
    for x, y in ((data.x, data.y), (data.x_val, data.y_val)):
        own = (low <= y) & (y < high)
        parts += [x[own], y[own] - low]
    return Data(*parts)


@functools.cache
def _first_classes():
    return _classes(0, 5)


@functools.cache
def _last_classes():
    return _classes(5, 10)


@functools.cache
def _turned():
    data = fashion()
    return Data(data.x[:, ::-1, ::-1], data.y, data.x_val[:, ::-1, ::-1], data.y_val)


def _trained(model, data, epochs):
    """Returns the weights of a model that was trained with Adam."""
    loss = models.class_loss
    model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=False)
    model.fit(data.x[:10000], data.y[:10000], batch_size=64, epochs=epochs, verbose=0)
    return model.get_weights()


def _base():
    layers = [L.Conv2D(16, 3, strides=2, activation="relu"), L.Conv2D(32, 3, strides=2)]
    return keras.Sequential([keras.Input((28, 28, 1)), *layers, L.ReLU(), L.Flatten()])


def _with_head(base):
    head = [L.Dense(64, activation="relu"), L.Dense(5, name="logits")]
    return keras.Sequential([base, *head])


@functools.cache
def _base_weights():
    keras.utils.set_random_seed(0)
    base = _base()
    _trained(_with_head(base), _first_classes(), epochs=1)
    return base.get_weights()


def _frozen():
    base = _base()
    base.set_weights(_base_weights())
    base.trainable = False
    return _with_head(base)


def _mlp():
    return models.mlp((28, 28, 1), 256, 256)


@functools.cache
def _mlp_weights():
    keras.utils.set_random_seed(0)
    return _trained(_mlp(), fashion(), epochs=2)


def _lora():
    model = _mlp()
    model.set_weights(_mlp_weights())
    for layer in model.layers[1:-1]:
        layer.enable_lora(4)
    return model


TASKS = {
    "frozen": Task(
        "a new head on a frozen base of convolutions",
        _frozen,
        _last_classes,
        64,
        500,
        models.class_loss,
        prepare=_base_weights,
    ),
    "lora": Task(
        "LoRA of rank 4 in an MLP 784-256-256-10, images turned upside down",
        _lora,
        _turned,
        64,
        800,
        models.class_loss,
        prepare=_mlp_weights,
    ),
}
