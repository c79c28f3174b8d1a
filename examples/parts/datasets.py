"""Images for the examples: scikit-learn's digits, Fashion-MNIST, MNIST and CIFAR-10.

Imports NumPy only until a data set is asked for.
"""

import dataclasses
import gzip
import pathlib

import numpy as np

DATASETS = ("digits", "fashion_mnist", "mnist", "cifar10")
# Where Debian's package dataset-fashion-mnist puts its files.
FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")
VALIDATION = 5000


@dataclasses.dataclass(frozen=True)
class Data:
    """Training and validation examples: images in [0, 1] of shape `[n, height, width, c]`."""

    x: np.ndarray
    y: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray

    @property
    def shape(self):
        return self.x.shape[1:]

    def head(self, count):
        """Returns the same with the first `count` examples of each part."""
        return Data(self.x[:count], self.y[:count], self.x_val[:count], self.y_val[:count])

    def reconstruction(self):
        """Returns the task of an autoencoder: flat images, and the same as targets."""
        x, x_val = (np.reshape(a, (len(a), -1)) for a in (self.x, self.x_val))
        return Data(x, x, x_val, x_val)


def load(name):
    """Returns the `Data` of that name.

    The training examples are put into one fixed random order, of which the last 5,000 (a
    fifth, where there are fewer than 25,000) are for validation. Test sets are not touched.
    """
    if name == "digits":
        x, y = _digits()
    elif name == "fashion_mnist" and FASHION_MNIST.is_dir():
        x = _idx(FASHION_MNIST / "train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
        y = _idx(FASHION_MNIST / "train-labels-idx1-ubyte.gz", 8)
    elif name in DATASETS:
        x, y = _from_tfds(name)
    else:
        raise ValueError(f"Argument `name` must be one of {DATASETS}. Received: {name!r}")
    x = x.astype("float32") / (16 if name == "digits" else 255)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order].astype("int32")
    train = len(x) - min(VALIDATION, len(x) // 5)
    return Data(x[:train], y[:train], x[train:], y[train:])


def epoch_batches(count, batch_size, seed, epoch):
    """Returns the indices of an epoch's batches, `[steps, batch_size]`.

    They depend on nothing else: whatever trains with them sees the same batches. What
    is left over in the end is not trained on in this epoch.
    """
    order = np.random.default_rng([seed, epoch]).permutation(count)
    steps = count // batch_size
    if not steps:
        raise ValueError(f"A batch of {batch_size} needs more than {count} examples.")
    return order[: steps * batch_size].reshape(steps, batch_size)


def _digits():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x.reshape(-1, 8, 8, 1), y


def _idx(path, header):
    """Reads the bytes of a gzipped idx file after its header."""
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def _from_tfds(name):
    try:
        import tensorflow_datasets as tfds

        pieces = list(tfds.as_numpy(tfds.load(name, split="train", batch_size=1000)))
    except Exception as error:
        way = "It is downloaded once, into ~/tensorflow_datasets, which may be copied here."
        if name == "fashion_mnist":
            way = f"`apt-get install dataset-fashion-mnist` puts it into {FASHION_MNIST}."
        raise RuntimeError(
            f"The data set {name!r} could not be loaded by tensorflow_datasets "
            f"({type(error).__name__}: {error}). {way} `digits` is always there."
        ) from error
    return [np.concatenate([piece[key] for piece in pieces]) for key in ("image", "label")]
