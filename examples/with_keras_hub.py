"""Trains a transformer of KerasHub, from random weights.

    pip install -e '.[examples,integrations]'
    python examples/with_keras_hub.py

The task is made up: which of two words is the more frequent in a text?
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import keras_hub
import numpy as np

import keras_proxprop

WORDS, LENGTH = 50, 16


def texts(count, rng):
    """Returns inputs of a BERT, and whether word 1 is more frequent in them than word 2."""
    ids = rng.integers(1, WORDS, (count, LENGTH))
    # A third of all words is one of the two.
    ids = np.where(rng.random(ids.shape) < 1 / 3, rng.integers(1, 3, ids.shape), ids)
    inputs = {
        "token_ids": ids,
        "segment_ids": np.zeros_like(ids),
        "padding_mask": np.ones_like(ids, dtype=bool),
    }
    return inputs, ((ids == 1).sum(1) > (ids == 2).sum(1)).astype("int32")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--layers", type=int, default=2)
    args = parser.parse_args(argv)
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=WORDS,
        num_layers=args.layers,
        num_heads=2,
        hidden_dim=32,
        intermediate_dim=64,
        max_sequence_length=LENGTH,
    )
    model = keras_hub.models.BertTextClassifier(backbone, num_classes=2, preprocessor=None)
    model.compile(
        optimizer=keras_proxprop.ProxProp(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    rng = np.random.default_rng(0)
    inputs, labels = texts(args.texts, rng)
    history = model.fit(
        inputs, labels, epochs=args.epochs, validation_data=texts(500, rng), verbose=2
    )
    return history, keras_proxprop.summary(model)


if __name__ == "__main__":
    main()
