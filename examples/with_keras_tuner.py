"""Searches the arguments of `ProxProp` with KerasTuner.

    pip install -e '.[examples,integrations]'
    python examples/with_keras_tuner.py

There is little to tune: `final_layer`, and the learning rate by factors of two or three.
"""

import argparse
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import keras_tuner
from sklearn.datasets import load_digits

import keras_proxprop


def make_model(hp):
    """Returns a model with an optimizer as the search has chosen it."""
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    inner = keras_proxprop.ScheduleFreeAdam()
    inner.learning_rate = inner.learning_rate * hp.Choice("rate", [1.0, 0.3, 3.0])
    proxprop = keras_proxprop.ProxProp(
        inner, final_layer=hp.Choice("final_layer", ["explicit", "implicit"])
    )
    model.compile(
        optimizer=proxprop, loss="sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--trials", type=int, default=6)
    args = parser.parse_args(argv)
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        tuner = keras_tuner.GridSearch(
            make_model,
            objective="val_accuracy",
            max_trials=args.trials,
            seed=0,
            directory=folder,
            project_name="digits",
        )
        tuner.search(x, y, epochs=args.epochs, validation_split=0.2, verbose=2)
        tuner.results_summary(3)
        return tuner.get_best_hyperparameters()[0].values


if __name__ == "__main__":
    main()
