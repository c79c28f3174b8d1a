"""The everyday tasks on images: digits and Fashion-MNIST."""

import functools

import keras

from parts import datasets, models
from parts.everyday_task import Task

L = keras.layers
_FASHION = (28, 28, 1)


@functools.cache
def fashion():
    return datasets.load("fashion_mnist")


@functools.cache
def digits():
    return datasets.load("digits")


@functools.cache
def flat_fashion():
    return fashion().reconstruction()


def _tiny_cnn():
    layers = [L.Conv2D(8, 3, padding="same", activation="relu"), L.MaxPooling2D()]
    layers += [L.Conv2D(16, 3, padding="same", activation="relu"), L.Flatten()]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers, L.Dense(10, name="logits")])


def _deep_narrow():
    hidden = [L.Dense(20, activation="tanh") for _ in range(20)]
    inputs = [keras.Input((8, 8, 1)), L.Flatten()]
    return keras.Sequential([*inputs, *hidden, L.Dense(10, name="logits")])


def _classes(what, make, load, batch_size, steps, **options):
    return Task(what, make, load, batch_size, steps, models.class_loss, **options)


def _mlp():
    return models.mlp(_FASHION, 1000, 1000, 1000)


# Their products of matrices, 1000 × 1000, cost more than batches of this size do.
_SLOW = ("soap", "muon")
_MLP = "MLP 784-1000-1000-1000-10, batch {}"

TASKS = {
    "digits": _classes("CNN on digits, batch 32", models.digits_cnn, digits, 32, 600),
    "digits8": _classes("CNN on digits, batch 8", models.digits_cnn, digits, 8, 1000),
    "batch1": _classes("small CNN on digits, batch 1", _tiny_cnn, digits, 1, 2000),
    "deep": _classes("20 layers of 20 on digits, tanh", _deep_narrow, digits, 32, 1000),
    "mlp64": _classes(_MLP.format(64), _mlp, fashion, 64, 800, evaluated=4096, slow_for=_SLOW),
    "mlp500": _classes(
        _MLP.format(500), _mlp, fashion, 500, 200, evaluated=4096, slow_for=_SLOW
    ),
    "mlp4096": _classes(_MLP.format("4,096"), _mlp, fashion, 4096, 50, evaluated=4096),
    "convnet": _classes(
        "the paper's ConvNet", lambda: models.paper_convnet(_FASHION), fashion, 250, 120
    ),
    "resnet": _classes(
        "small ResNet, batch normalization, dropout",
        lambda: models.small_resnet(_FASHION, dropout=0.2),
        fashion,
        64,
        300,
    ),
    "vit": _classes(
        "small ViT, two blocks, 16 patches",
        lambda: models.small_vit(_FASHION),
        fashion,
        64,
        400,
        evaluated=1024,
    ),
    "autoencoder": Task(
        "autoencoder 784-1000-500-250-30-250-500-1000-784, tanh",
        lambda: models.deep_autoencoder((784,)),
        flat_fashion,
        500,
        360,
        models.image_loss,
        slow_for=_SLOW,
    ),
}
