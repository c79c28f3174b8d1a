"""A soak: 20,000 training steps of a net of many kinds of layers, watched as they go.

Images go through convolutions, tokens through an embedding and an LSTM; both meet in dense
layers. Batches are drawn anew from a task that a fixed random net sets, and every epoch's
last one is smaller. After each part of the steps a line says what is to be watched, and is
kept in a file. At the end the program says what is wrong, and fails if anything is: a loss or
a variable that is not finite, memory of the process that grows, a loss that does not go down,
a step that is traced again.

    python examples/soak.py
    python examples/soak.py --steps 2000 --jit --optimizer adam
"""

import argparse
import csv
import dataclasses
import math
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import psutil
import tensorflow as tf

import keras_proxprop

OPTIMIZERS = {"proxprop": keras_proxprop.ProxProp, "adam": keras.optimizers.Adam}
BATCH, LAST, VOCABULARY, CLASSES = 32, 12, 40, 5
PARTS = 20
# By how much the process may grow after a fifth of the steps: allocators take their time.
# One Gram matrix of the net that is kept at every step would be gigabytes.
MEGABYTES = 48


@dataclasses.dataclass(frozen=True)
class Part:
    """What was seen at the end of a part of the steps."""

    steps: int
    seconds: float
    loss: float  # mean over the part
    finite: bool  # whether all variables are
    megabytes: float  # of the process
    traces: int  # so far


class Counted(keras.layers.Layer):
    """Passes its inputs on, and counts how often it is traced in a graph."""

    def __init__(self):
        super().__init__()
        self.traces = [0]

    def call(self, x):
        self.traces[0] += not tf.executing_eagerly()
        return x


def make_model():
    layers = keras.layers
    images = keras.Input((10, 10, 2), name="images")
    tokens = keras.Input((8,), dtype="int32", name="tokens")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(images)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.SeparableConv2D(12, 3, strides=2, activation="relu")(x)
    x = layers.Conv2D(12, 3, padding="same", groups=2, activation="gelu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    y = layers.Embedding(VOCABULARY, 12)(tokens)
    y = y + layers.MultiHeadAttention(2, 6)(y, y)
    y = layers.LSTM(16)(layers.LayerNormalization()(y))
    z = layers.Concatenate()([layers.Dense(16)(x), layers.Dense(16)(y)])
    z = layers.Dense(32, activation="tanh")(layers.PReLU()(z))
    counted = Counted()
    z = counted(layers.Dropout(0.1)(z))
    return keras.Model([images, tokens], layers.Dense(CLASSES)(z)), counted.traces


def batches(seed):
    """Yields batches without end, each seventh of them smaller."""
    random = np.random.default_rng(seed)
    teacher = np.random.default_rng(0)
    of_images = teacher.normal(size=(3 * 3 * 2, CLASSES))
    of_tokens = teacher.normal(size=(VOCABULARY, CLASSES))
    while True:
        for size in [BATCH] * 6 + [LAST]:
            images = random.normal(size=(size, 10, 10, 2)).astype("float32")
            images += random.normal(size=(size, 1, 1, 2))
            tokens = random.integers(VOCABULARY, size=(size, 8), dtype="int32")
            scores = images[:, 4:7, 4:7].reshape(size, -1) @ of_images / 4
            scores += of_tokens[tokens].mean(axis=1) * 2
            yield images, tokens, np.argmax(scores, axis=1)


def dataset(seed):
    kinds = (
        tf.TensorSpec((None, 10, 10, 2), "float32"),
        tf.TensorSpec((None, 8), "int32"),
        tf.TensorSpec((None,), "int64"),
    )
    made = tf.data.Dataset.from_generator(lambda: batches(seed), output_signature=kinds)
    return made.map(lambda images, tokens, y: ((images, tokens), y)).prefetch(2)


class Watch(keras.callbacks.Callback):
    """Makes a `Part` of every epoch.

    Args:
        traces: list of the number of traces so far.
        seen: function that is called with each `Part`.
    """

    def __init__(self, traces, seen):
        super().__init__()
        self.parts, self._traces, self._seen = [], traces, seen
        self._begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        variables = self.model.variables + self.model.optimizer.variables
        floating = [v for v in map(tf.convert_to_tensor, variables) if v.dtype.is_floating]
        part = Part(
            steps=(epoch + 1) * self.params["steps"],
            seconds=time.perf_counter() - self._begin,
            loss=logs["loss"],
            finite=all(bool(tf.reduce_all(tf.math.is_finite(v))) for v in floating),
            megabytes=psutil.Process().memory_info().rss / 2**20,
            traces=self._traces[0],
        )
        self.parts.append(part)
        self._seen(part)


def soak(steps, optimizer="proxprop", jit=False, seen=lambda part: None):
    """Trains for so many steps; returns a `Part` for each of twenty parts of them."""
    keras.utils.set_random_seed(0)
    model, traces = make_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(OPTIMIZERS[optimizer](), loss, jit_compile=jit)
    watch, length = Watch(traces, seen), steps // PARTS
    model.fit(dataset(1), epochs=PARTS, steps_per_epoch=length, verbose=0, callbacks=[watch])
    return watch.parts


def faults(parts):
    """Returns sentences that say what is wrong; none, where nothing is."""
    found = []
    for part in parts:
        if not (part.finite and math.isfinite(part.loss)):
            found.append(f"After {part.steps} steps something is not finite.")
            break
    # What is traced and set aside in the first steps is not growth.
    settled = parts[len(parts) // 5 :]
    grown = settled[-1].megabytes - settled[0].megabytes
    if grown > MEGABYTES:
        found.append(f"From step {settled[0].steps} on the process grew by {grown:.0f} MiB.")
    if not parts[-1].loss < 0.8 * parts[0].loss:
        found.append(f"The loss went from {parts[0].loss:.3f} to {parts[-1].loss:.3f} only.")
    if settled[-1].traces > settled[0].traces:
        found.append(f"After step {settled[0].steps} the step was traced again.")
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="proxprop")
    parser.add_argument("--jit", action="store_true", help="compile steps with XLA")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("soak.csv"))
    args = parser.parse_args()
    with args.out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in dataclasses.fields(Part))

        def seen(part):
            writer.writerow(dataclasses.astuple(part))
            file.flush()
            print(
                f"{part.steps:>6,} steps  {part.seconds:6.0f} s  loss {part.loss:.4f}  "
                f"{part.megabytes:5.0f} MiB  {part.traces} traces",
                flush=True,
            )

        found = faults(soak(args.steps, args.optimizer, args.jit, seen))
    print("\n".join(found or ["Nothing is wrong."]))
    return len(found)


if __name__ == "__main__":
    sys.exit(main())
