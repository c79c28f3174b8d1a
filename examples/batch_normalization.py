"""How far behind the moving statistics of `BatchNormalization` are, with Adam and ProxProp.

A small U-Net finds the garments in noisy images. The first table has its loss after some
numbers of steps in training mode, with the statistics of the batch, and in inference mode,
with the moving ones. These are an average of the last `1 / (1 - momentum)` steps, in which the
weights moved. In a training with `ProxProp` they average over fewer steps at first: over a
step, and one more for every 30 that were made. Beside it stands `ProxProp` without this.

The second table has the loss of digits in inference mode, for other numbers than 30.

    python examples/batch_normalization.py

It takes half an hour on one core. Adam's learning rate is the best of three in
training mode. The images are those of Fashion-MNIST; digits are scikit-learn's.
"""

import argparse
import functools
import itertools
import os
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from keras_proxprop import ProxProp
from keras_proxprop.keras_seams import moving_statistics
from parts import datasets
from parts.results import markdown
from parts.training import batch_losses

L = keras.layers
BATCH, COUNT, VALIDATED = 32, 5000, 1000
STEPS, MOMENTA, RATES = (150, 600, 1500), (0.99, 0.9), (1e-3, 3e-3, 1e-2)
DIGITS_STEPS, DIGITS_BATCHES, STEPS_FOR_ONE = (50, 150, 400), (4, 16, 64), (10, 30, 100)


class Own(ProxProp):
    """A `ProxProp` with which every normalization has the momentum that it says."""

    def step_arguments(self):
        return {**super().step_arguments(), "iterations": None}


def convolved(x, filters, momentum=0.99):
    x = L.Conv2D(filters, 3, padding="same")(x)
    return L.ReLU()(L.BatchNormalization(momentum=momentum)(x))


def unet(shape, momentum):
    """Returns a U-Net of three scales, with a normalization after each convolution."""
    images = keras.Input(shape)
    fine = convolved(images, 8, momentum)
    middle = convolved(L.MaxPooling2D()(fine), 16, momentum)
    coarse = convolved(L.MaxPooling2D()(middle), 32, momentum)
    up = convolved(L.Concatenate()([L.UpSampling2D()(coarse), middle]), 16, momentum)
    up = convolved(L.Concatenate()([L.UpSampling2D()(up), fine]), 8, momentum)
    return keras.Model(images, L.Conv2D(1, 1, activation="sigmoid")(up))


def dense_net(shape):
    images = keras.Input(shape)
    x = L.Flatten()(images)
    for _ in range(3):
        x = L.ReLU()(L.BatchNormalization()(L.Dense(64)(x)))
    return keras.Model(images, L.Dense(10, "softmax")(x))


def convolution_net(shape):
    images = x = keras.Input(shape)
    for filters in (16, 32, 32):
        x = convolved(x, filters)
    return keras.Model(images, L.Dense(10, "softmax")(L.GlobalAveragePooling2D()(x)))


NETS = {"dense": dense_net, "convolutions": convolution_net}


def task(images):
    """Returns noisy images, and which of their pixels were not dark."""
    noise = np.random.default_rng(0).normal(scale=0.4, size=images.shape)
    noisy = np.clip(images + noise, 0, 1).astype("float32")
    return noisy, (images > 0.3).astype("float32")


def losses(make, optimizer, loss, data, batch_size, steps_of_rows, seeds):
    """Trains nets; returns for each number of steps the mean loss of the last tenth of them,
    and that of other images in inference mode, `[number, 2]`, means over seeds."""
    (x, y), validation = data
    rows = np.zeros((len(steps_of_rows), 2))
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        model = make()
        model.compile(optimizer(), loss, jit_compile=False)
        training, found = batch_losses(model, x, y, batch_size, max(steps_of_rows), seed), []
        for step, own in enumerate(training, 1):
            found.append(own)
            if step in steps_of_rows:
                inference = model.evaluate(*validation, batch_size=250, verbose=0)
                last = np.mean(found[-max(1, step // 10) :])
                rows[steps_of_rows.index(step)] += last, inference
    return rows / seeds


def rows_of_unet(data, steps_of_rows, momenta, rates, seeds):
    """Yields a row of the first table for each momentum and number of steps."""
    for momentum in momenta:
        make = functools.partial(unet, data[0][0].shape[1:], momentum)
        given = "binary_crossentropy", data, BATCH, steps_of_rows, seeds
        ours, own = losses(make, ProxProp, *given), losses(make, Own, *given)
        tuned = [functools.partial(keras.optimizers.Adam, rate) for rate in rates]
        tuned = [losses(make, adam, *given) for adam in tuned]
        for i, steps in enumerate(steps_of_rows):
            adam = min((found[i] for found in tuned), key=lambda found: found[0])
            values = adam[0], ours[i][0], adam[1], own[i][1], ours[i][1]
            row = [momentum, steps, *(f"{value:.3f}" for value in values)]
            print(*row, flush=True)
            yield row


def rows_of_digits(data, steps_of_rows, batches, steps_for_one, seeds):
    """Yields a row of the second table for each net, batch size and number of steps."""
    for net, batch in itertools.product(NETS, batches):
        make = functools.partial(NETS[net], data[0][0].shape[1:])
        given = "sparse_categorical_crossentropy", data, batch, steps_of_rows, seeds
        columns = [losses(make, Own, *given)[:, 1]]
        for number in steps_for_one:
            with mock.patch.object(moving_statistics, "STEPS_FOR_ONE", number):
                columns.append(losses(make, ProxProp, *given)[:, 1])
        for steps, values in zip(steps_of_rows, zip(*columns)):
            row = [net, batch, steps, *(f"{value:.3f}" for value in values)]
            print(*row, flush=True)
            yield row


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=datasets.DATASETS, default="fashion_mnist")
    parser.add_argument("--seeds", type=int, default=2, help="how many seeds")
    parser.add_argument("--quick", action="store_true", help="a few steps at one rate")
    args = parser.parse_args(argv)
    images, digits = datasets.load(args.dataset), datasets.load("digits")
    data = task(images.x[:COUNT]), task(images.x_val[:VALIDATED])
    plan = ((10,), (0.9,), (3e-3,)) if args.quick else (STEPS, MOMENTA, RATES)
    head = ["momentum", "steps", "training: Adam", "`ProxProp()`", "inference: Adam"]
    head += ["`ProxProp()`, momentum as it is", "`ProxProp()`"]
    print(markdown(head, rows_of_unet(data, *plan, args.seeds)))
    data = (digits.x, digits.y), (digits.x_val, digits.y_val)
    plan = DIGITS_STEPS, DIGITS_BATCHES, STEPS_FOR_ONE
    if args.quick:
        plan = (10,), (16,), (30,)
    head = ["net", "batch", "steps", "momentum as it is", *map(str, plan[-1])]
    print(markdown(head, rows_of_digits(data, *plan, args.seeds)))


if __name__ == "__main__":
    main()
