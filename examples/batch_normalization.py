"""How far behind the moving statistics of `BatchNormalization` are, with Adam and ProxProp.

A small U-Net finds the garments in noisy images. After each number of steps the table has its
loss in training mode, with the statistics of the batch, and in inference mode, with the moving
ones: these are an average of the last `1 / (1 - momentum)` steps, in which the weights moved.

    python examples/batch_normalization.py

It takes a quarter of an hour on one core. Adam's learning rate is the best of three in
training mode. Images are those of Fashion-MNIST.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from keras_proxprop import ProxProp
from parts import datasets
from parts.results import markdown

L = keras.layers
BATCH, COUNT, VALIDATED = 32, 5000, 1000
STEPS, MOMENTA, RATES = (150, 600, 1500), (0.99, 0.9), (1e-3, 3e-3, 1e-2)


def unet(shape, momentum):
    """Returns a U-Net of three scales, with a normalization after each convolution."""

    def convolved(x, filters):
        x = L.Conv2D(filters, 3, padding="same")(x)
        return L.ReLU()(L.BatchNormalization(momentum=momentum)(x))

    images = keras.Input(shape)
    fine = convolved(images, 8)
    middle = convolved(L.MaxPooling2D()(fine), 16)
    coarse = convolved(L.MaxPooling2D()(middle), 32)
    up = convolved(L.Concatenate()([L.UpSampling2D()(coarse), middle]), 16)
    up = convolved(L.Concatenate()([L.UpSampling2D()(up), fine]), 8)
    return keras.Model(images, L.Conv2D(1, 1, activation="sigmoid")(up))


def task(images):
    """Returns noisy images, and which of their pixels were not dark."""
    noise = np.random.default_rng(0).normal(scale=0.4, size=images.shape)
    noisy = np.clip(images + noise, 0, 1).astype("float32")
    return noisy, (images > 0.3).astype("float32")


def losses(optimizer, data, momentum, steps, seed):
    """Trains a U-Net; returns the mean loss of the last tenth of the steps, and that of other
    images in inference mode."""
    (x, y), validation = data
    keras.utils.set_random_seed(seed)
    model = unet(x.shape[1:], momentum)
    model.compile(optimizer, "binary_crossentropy", jit_compile=False)
    random, found = np.random.default_rng(seed), []
    for _ in range(steps):
        batch = random.integers(len(x), size=BATCH)
        # The loss of this batch alone.
        model.reset_metrics()
        found.append(float(model.train_on_batch(x[batch], y[batch])))
    last = np.mean(found[-max(1, steps // 10) :])
    return last, model.evaluate(*validation, batch_size=250, verbose=0)


def rows(data, steps_of_runs, momenta, rates, seeds):
    """Yields a row of the table for each momentum and number of steps."""
    for momentum in momenta:
        for steps in steps_of_runs:

            def mean(make, momentum=momentum, steps=steps):
                runs = [losses(make(), data, momentum, steps, seed) for seed in range(seeds)]
                return np.mean(runs, axis=0)

            tuned = [mean(lambda rate=rate: keras.optimizers.Adam(rate)) for rate in rates]
            both = zip(min(tuned, key=lambda found: found[0]), mean(ProxProp))
            found = [f"{loss:.3f}" for pair in both for loss in pair]
            print(momentum, steps, *found, flush=True)
            yield momentum, steps, *found


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=datasets.DATASETS, default="fashion_mnist")
    parser.add_argument("--seeds", type=int, default=2, help="how many seeds")
    parser.add_argument("--quick", action="store_true", help="a few steps at one rate")
    args = parser.parse_args(argv)
    images = datasets.load(args.dataset)
    data = task(images.x[:COUNT]), task(images.x_val[:VALIDATED])
    plan = ((10,), (0.9,), (3e-3,)) if args.quick else (STEPS, MOMENTA, RATES)
    head = ["momentum", "steps", "training: Adam", "`ProxProp()`"]
    head += ["inference: Adam", "`ProxProp()`"]
    print(markdown(head, rows(data, *plan, args.seeds)))


if __name__ == "__main__":
    main()
