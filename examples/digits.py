"""How long ProxProp takes to where a tuned Adam ends, on scikit-learn's digits.

    python examples/digits.py

The digits are shifted about, 16,000 images of 12 × 12 pixels, and a net of three hidden layers
reads them. Adam is trained at each learning rate of a grid, `ProxProp()` as it is. Seconds are
those since `fit` was called, the first step with all its preparations and the validation among
them. A table and a picture, `digits.png`, say what came out.
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_proxprop
from parts.plots import plot
from parts.results import markdown

SIZE = 12
GRID = (3e-4, 1e-3, 3e-3)


def shifted_digits(count, seed=0):
    """Returns `(x, y)` of shifted images to train on, and of others to validate with."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).reshape(-1, 8, 8).astype("float32")
    random = np.random.default_rng(seed)
    order = random.permutation(len(images))
    data = []
    for own, number in ((order[:1400], count), (order[1400:], count // 5)):
        chosen = random.choice(own, number)
        x = np.zeros((number, SIZE, SIZE), "float32")
        corners = random.integers(0, SIZE - 8 + 1, (number, 2))
        for place, image, (top, left) in zip(x, images[chosen], corners):
            place[top : top + 8, left : left + 8] = image
        data.append((x, labels[chosen]))
    return data


def make_model():
    hidden = [keras.layers.Dense(256, activation="relu") for _ in range(3)]
    layers = [keras.Input((SIZE, SIZE)), keras.layers.Flatten(), *hidden]
    return keras.Sequential([*layers, keras.layers.Dense(10)])


class Clock(keras.callbacks.Callback):
    """Notes the seconds since the beginning at the end of every epoch."""

    def on_train_begin(self, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs):
        logs["seconds"] = time.perf_counter() - self.start


def train(name, optimizer, data, args):
    """Returns a row per epoch."""
    print(f"\n{name}")
    train_data, validation_data = data
    keras.utils.set_random_seed(args.seed)
    model = make_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, metrics=["accuracy"])
    history = model.fit(
        *train_data,
        batch_size=64,
        epochs=args.epochs,
        validation_data=validation_data,
        callbacks=[Clock()],
    )
    columns = ("loss", "val_accuracy", "seconds")
    points = zip(*(history.history[column] for column in columns))
    about = {"optimizer": name, "seed": args.seed}
    return [
        about | {"epoch": epoch, **dict(zip(columns, point))}
        for epoch, point in enumerate(points, 1)
    ]


def table(adam, ours):
    """Returns what an Adam and `ProxProp()` came to, in Markdown."""
    last, rows = adam[-1], []
    for run in (adam, ours):
        there = next((row for row in run if row["loss"] <= last["loss"]), None)
        if there is None:
            where = ["never", "never", "never"]
        else:
            part = f"{there['seconds'] / last['seconds']:.2f}"
            where = [there["epoch"], f"{there['seconds']:.1f}", part]
        end = [f"{run[-1]['loss']:.4f}", f"{100 * run[-1]['val_accuracy']:.1f} %"]
        rows.append([run[0]["optimizer"], *where, *end])
    head = ["", f"epochs to a loss of {last['loss']:.4f}", "seconds", "of Adam's"]
    return markdown([*head, "last loss", "validation accuracy"], rows)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--images", type=int, default=16_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("digits.png"))
    args = parser.parse_args(argv)
    data = shifted_digits(args.images)
    adams = {f"Adam({rate:g})": keras.optimizers.Adam(rate) for rate in GRID}
    runs = [train(name, optimizer, data, args) for name, optimizer in adams.items()]
    ours = train("ProxProp()", keras_proxprop.ProxProp(), data, args)
    adam = min(runs, key=lambda run: run[-1]["loss"])
    panels = [("seconds", "loss"), ("epoch", "loss")]
    plot([*sum(runs, []), *ours], args.out, "Shifted digits", panels, "optimizer", "epoch")
    print(f"\nAdam at the best of {len(GRID)} learning rates, ProxProp() as it is:\n")
    print(table(adam, ours))
    print(f"\nThe curves are in {args.out}.")


if __name__ == "__main__":
    main()
