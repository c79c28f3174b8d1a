"""The nets, optimizers and images of `gpu_check.py`."""

import keras
import numpy as np

from keras_proxprop import CurvatureMemory, ProxProp
from parts.models import mlp, paper_convnet, row_mlp, small_resnet

SHAPE = (32, 32, 3)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def resnet50():
    return keras.applications.ResNet50(
        weights=None, input_shape=SHAPE, classes=10, classifier_activation=None
    )


NETS = {
    "mlp": lambda: mlp(SHAPE, 1000, 1000, 1000),
    "mlp4096": lambda: mlp(SHAPE, 4096, 4096, 4096, 4096),
    "convnet": paper_convnet,
    "resnet": lambda: small_resnet(SHAPE),
    "rows": lambda: row_mlp(SHAPE, 512),
    "resnet50": resnet50,
}
OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(),
    "proxprop": lambda: ProxProp(),
    "memory-all": lambda: ProxProp(memory=CurvatureMemory(layers="all")),
    "no-memory": lambda: ProxProp(memory=None),
}


def images(count, seed=0):
    """Returns random images of ten classes: a coarse picture for each class, and noise."""
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(0).random((10, 8, 8, 3))
    y = rng.integers(0, 10, count)
    coarse = means[y] + 0.3 * rng.random((count, 8, 8, 3))
    x = np.repeat(np.repeat(coarse, 4, 1), 4, 2)
    return x.astype("float32"), y.astype("int32")


def compiled(net, optimizer, jit):
    """Returns a net that is ready to train, the same for every optimizer."""
    keras.utils.set_random_seed(0)
    model = NETS[net]()
    model.compile(optimizer=OPTIMIZERS[optimizer](), loss=LOSS, jit_compile=jit)
    return model
