"""Trains one model on scikit-learn's digits twice: with Adam, and with ProxProp.

python examples/digits.py
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from sklearn.datasets import load_digits

import keras_proxprop

L = keras.layers


def make_model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(16, 3, padding="same", activation="relu"),
            L.MaxPooling2D(),
            L.Conv2D(32, 3, padding="same", activation="relu"),
            L.Flatten(),
            L.Dense(128, activation="relu"),
            L.Dense(10, activation="softmax"),
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    x, y = load_digits(return_X_y=True)
    x = (x / 16).reshape(-1, 8, 8, 1).astype("float32")

    histories = {}
    for name in ("Adam", "ProxProp"):
        keras.utils.set_random_seed(args.seed)
        model = make_model()
        optimizer = keras_proxprop.ProxProp() if name == "ProxProp" else "adam"
        model.compile(
            optimizer=optimizer,
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        start = time.perf_counter()
        history = model.fit(
            x,
            y,
            batch_size=args.batch_size,
            epochs=args.epochs,
            validation_split=0.2,
            verbose=0,
        )
        seconds = time.perf_counter() - start
        histories[name] = history.history
        print(f"{name}: {args.epochs} epochs in {seconds:.1f} s, compilation included")

    print("\n       training loss         validation accuracy")
    print("epoch  Adam      ProxProp    Adam      ProxProp")
    adam, proxprop = histories["Adam"], histories["ProxProp"]
    for epoch in range(args.epochs):
        print(
            f"{epoch + 1:5d}  {adam['loss'][epoch]:<8.4f}  {proxprop['loss'][epoch]:<10.4f}  "
            f"{adam['val_accuracy'][epoch]:<8.4f}  {proxprop['val_accuracy'][epoch]:<8.4f}"
        )
    print()
    keras_proxprop.summary(model, batch_size=args.batch_size)


if __name__ == "__main__":
    main()
