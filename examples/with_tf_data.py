"""Trains from a `tf.data` pipeline: shuffled, augmented, repeated, prefetched.

python examples/with_tf_data.py
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

import keras_proxprop

BATCH_SIZE = 64


def shifted(image, label):
    """Moves an image by up to one pixel."""
    moved = tf.image.random_crop(tf.image.resize_with_crop_or_pad(image, 10, 10), (8, 8, 1))
    return moved, label


def pipelines():
    """Returns batches for training, without an end, and those for validation."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).reshape(-1, 8, 8, 1).astype("float32")
    train = tf.data.Dataset.from_tensor_slices((x[:1400], y[:1400])).shuffle(1400).repeat()
    train = train.map(shifted, num_parallel_calls=tf.data.AUTOTUNE)
    train = train.batch(BATCH_SIZE, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    return train, tf.data.Dataset.from_tensor_slices((x[1400:], y[1400:])).batch(BATCH_SIZE)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args(argv)
    keras.utils.set_random_seed(0)
    train, validation = pipelines()
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        optimizer=keras_proxprop.ProxProp(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model.fit(
        train,
        steps_per_epoch=1400 // BATCH_SIZE,
        epochs=args.epochs,
        validation_data=validation,
        # The pipeline does it.
        shuffle=False,
        verbose=2,
    )


if __name__ == "__main__":
    main()
