"""How long one waits for the first step, and for the first hundred, with ProxProp and Adam.

Every run has a process of its own, without XLA: a model is compiled and trained on random
numbers. The clock starts before `compile` and is read at the end of every step. Optimizers
take turns. The table has, of each net, the median over the turns of the seconds to the end of
the first step and of the first hundred, in brackets that in units of Adam's; and the longest
step after the first in units of the median step, as the median over the turns.

Runs are kept in a file as they are made; runs in it are not made again.

    python examples/first_step.py
    python examples/first_step.py --net resnet50 transformer --turns 1
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import keras_proxprop
from parts import results
from parts.models import digits_cnn, mlp, mobilenet, paper_convnet, small_vit

# name: (what it is, its model, input shape)
NETS = {
    "mlp": ("small MLP, 64-64-64-10", lambda: mlp((64,), 64, 64), (64,)),
    "mlp256": ("MLP 64-256³-10, batch 1,024", lambda: mlp((64,), 256, 256, 256), (64,)),
    "digits": ("digits CNN", digits_cnn, (8, 8, 1)),
    "convnet": ("paper's ConvNet", paper_convnet, (32, 32, 3)),
    "vit": ("small ViT", lambda: small_vit((28, 28, 1)), (28, 28, 1)),
    "transformer": (
        "transformer of 24 blocks",
        lambda: small_vit((28, 28, 1), blocks=24),
        (28, 28, 1),
    ),
    "mobilenet": ("MobileNet, half as wide, 64×64", mobilenet, (64, 64, 3)),
    "resnet50": (
        "ResNet50 at 32 pixels",
        lambda: keras.applications.ResNet50(
            weights=None, input_shape=(32, 32, 3), classes=10, classifier_activation=None
        ),
        (32, 32, 3),
    ),
}
# They take minutes.
LARGE = ("mobilenet", "resnet50", "transformer")
OPTIMIZERS = {
    "Adam": keras.optimizers.Adam,
    "ProxProp()": keras_proxprop.ProxProp,
    "memory=None": lambda: keras_proxprop.ProxProp(memory=None),
}
BATCH, BATCHES = 64, {"mlp256": 1024}
KEYS = ("net", "metrics", "steps", "turn", "optimizer")


class Clock(keras.callbacks.Callback):
    """Notes when every step is through."""

    def __init__(self):
        super().__init__()
        self.times = [time.perf_counter()]

    def on_train_batch_end(self, batch, logs=None):
        self.times.append(time.perf_counter())


def measure(net, optimizer, metrics, steps):
    """Returns the seconds to the end of the first step and of the last, and of a step."""
    _, make, shape = NETS[net]
    keras.utils.set_random_seed(0)
    model, random = make(), np.random.default_rng(0)
    batch_size = BATCHES.get(net, BATCH)
    x = random.random((steps * batch_size, *shape), dtype="float32")
    y = random.integers(0, 10, len(x))
    clock = Clock()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        OPTIMIZERS[optimizer](), loss, metrics=["accuracy"] * metrics, jit_compile=False
    )
    model.fit(x, y, batch_size=batch_size, verbose=0, callbacks=[clock])
    seconds = np.diff(clock.times)
    return {
        "first": seconds[0],
        "all": seconds.sum(),
        "longest": seconds[1:].max(),
        "median": float(np.median(seconds[1:])),
    }


def run(*what):
    """Returns the row of a run in a process of its own."""
    command = [sys.executable, __file__, "--run", json.dumps(what)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(rows):
    """Returns what the rows say, as Markdown."""
    head = ["net", "metrics", "steps", "optimizer", "first step, s", "all steps, s", "longest"]
    lines = []
    for (net, metrics, steps), own in results.grouped(rows, *KEYS[:3]).items():
        by_optimizer = results.grouped(own, "optimizer")

        def seconds(what, of, by_optimizer=by_optimizer):
            median = statistics.median(row[what] for row in by_optimizer[of])
            if of == "Adam" or "Adam" not in by_optimizer:
                return f"{median:.2f}"
            adam = statistics.median(row[what] for row in by_optimizer["Adam"])
            return f"{median:.2f} [{median / adam:.2f}]"

        for name, of_it in by_optimizer.items():
            longest = statistics.median(row["longest"] / row["median"] for row in of_it)
            cells = [NETS[net][0], "yes" if metrics else "no", steps, name]
            lines.append(
                [*cells, seconds("first", name), seconds("all", name), f"{longest:.1f}"]
            )
    return results.markdown(head, lines)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    small = [net for net in NETS if net not in LARGE]
    parser.add_argument("--net", nargs="+", choices=NETS, default=small)
    parser.add_argument("--optimizer", nargs="+", choices=OPTIMIZERS, default=OPTIMIZERS)
    parser.add_argument("--metrics", action="store_true", help="with accuracy as a metric")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="one turn of five steps")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("first_step.csv"))
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.run:
        return print(json.dumps(measure(*json.loads(args.run))))
    if args.quick:
        args.turns, args.steps = 1, 5

    made = {tuple(row[key] for key in KEYS) for row in results.read(args.out)}
    for turn in range(0 if args.report else args.turns):
        for net in args.net:
            for optimizer in args.optimizer:
                key = (net, int(args.metrics), args.steps, turn, optimizer)
                if key in made:
                    continue
                row = run(net, optimizer, int(args.metrics), args.steps)
                results.append(args.out, [{**dict(zip(KEYS, key)), **row}])
                print(f"{net}, {optimizer}: first step {row['first']:.2f} s", flush=True)
    print("\n" + table(results.read(args.out)))


if __name__ == "__main__":
    main()
