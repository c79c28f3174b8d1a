"""Logs a run with the Keras callback of Weights & Biases, into a folder: no network is used.

    pip install -e '.[examples,integrations]'
    python examples/with_wandb.py

`wandb sync` sends the folder later; leave `mode="offline"` out to log as the training goes.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import wandb
from sklearn.datasets import load_digits
from wandb.integration.keras import WandbMetricsLogger

import keras_proxprop


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", default="results", help="the folder")
    args = parser.parse_args(argv)
    os.makedirs(args.out, exist_ok=True)
    keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu", name="hidden"),
            keras.layers.Dense(10),
        ]
    )
    optimizer = keras_proxprop.ProxProp()
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    settings = keras.saving.serialize_keras_object(optimizer)["config"]
    with wandb.init(project="digits", mode="offline", dir=args.out, config=settings) as run:
        model.fit(
            (x / 16).astype("float32"),
            y,
            epochs=args.epochs,
            validation_split=0.2,
            # The monitor first: the logger then logs what it notes, too.
            callbacks=[keras_proxprop.StepMonitor(), WandbMetricsLogger()],
            verbose=2,
        )
        return dict(run.summary)


if __name__ == "__main__":
    main()
