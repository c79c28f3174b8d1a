"""Deep image nets from scratch: `ProxProp()` untuned against tuned peers.

    python examples/from_scratch.py
    python examples/from_scratch.py --nets ResNet50 --steps 200 --optimizers Adam "ProxProp()"
    python examples/from_scratch.py --report

The nets are small ones, `parts/deep_nets.py`, and with `--nets` those of keras.applications.

The images are those of Fashion-MNIST, with a margin of dark pixels: 32 by 32. The training
loss is the mean of the last twenty batches', with the statistics of these batches; the
validation loss is that of a thousand other images in inference mode. Peers are Adam and
Schedule-Free AdamW at a constant rate, the best of the rates that were run. "ProxProp" is the
best of other rates than its own. Each run has a process of its own and is in the CSV file at
once; started again, the program does what is missing.
"""

import concurrent.futures
import multiprocessing
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from keras_proxprop import ProxProp
from parts import command_line, datasets, deep_nets, results
from parts.schedule_free import ScheduleFreeAdamW
from parts.training import batch_losses

BATCH, LAST, VALIDATED = 64, 20, 1000
# {name: (optimizer, learning rates)}; "" is the rate that it has by itself.
OPTIMIZERS = {
    "Adam": (keras.optimizers.Adam, (3e-4, 1e-3, 3e-3)),
    "ScheduleFreeAdamW": (ScheduleFreeAdamW, (1e-3, 3e-3, 1e-2)),
    "ProxProp()": (ProxProp, ("",)),
    "ProxProp": (ProxProp, (5e-4, 2e-3, 4e-3)),
}
SAME = "net", "optimizer", "rate", "seed", "steps"


def in_color(images):
    """Returns images of three channels between -1 and 1, with a margin of two dark pixels."""
    images = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    return np.repeat(2 * images - 1, 3, axis=-1)


def train(make, optimizer, data, seed, steps):
    """Trains a net; returns `{"loss": ..., "val_loss": ..., "val_accuracy": ...}`.

    Args:
        make: function that returns the model.
        optimizer: of Keras.
        data: what `datasets.load` returns.
        seed: of the weights and batches.
        steps: number of steps.
    """
    keras.utils.set_random_seed(seed)
    model = make()
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    losses = list(batch_losses(model, in_color(data.x), data.y, BATCH, steps, seed))
    images, labels = in_color(data.x_val[:VALIDATED]), data.y_val[:VALIDATED]
    found = model.evaluate(images, labels, batch_size=250, verbose=0, return_dict=True)
    found = {"val_loss": found["loss"], "val_accuracy": found["accuracy"]}
    return {"loss": float(np.mean(losses[-LAST:])), **found}


def run(net, name, rate, seed, steps, dataset):
    """Trains a net with one of `OPTIMIZERS`; returns the row of the CSV file."""
    optimizer, _ = OPTIMIZERS[name]
    optimizer = optimizer(rate) if rate else optimizer()

    def make():
        if net in deep_nets.NETS:
            return deep_nets.NETS[net]()
        shape = {"input_shape": (32, 32, 3), "classes": 10}
        return getattr(keras.applications, net)(weights=None, **shape)

    found = train(make, optimizer, datasets.load(dataset), seed, steps)
    row = dict(zip(SAME, (net, name, rate, seed, steps)))
    return row | {name: f"{value:.4g}" for name, value in found.items()}


def report(rows):
    """Returns the table in Markdown: of each net the seed's losses of the best rate."""
    lines = []
    for (net, seed, steps), own in results.grouped(rows, "net", "seed", "steps").items():
        line = [net, seed, steps]
        for name in OPTIMIZERS:
            tried = [row for row in own if row["optimizer"] == name]
            if not tried:
                line.append("–")
                continue
            best = min(tried, key=lambda row: row["loss"])
            rate = f" ({best['rate']:g})" if best["rate"] else ""
            line.append(f"{best['loss']:.3f}, {best['val_loss']:.3f}{rate}")
        lines.append(line)
    return results.markdown(["net", "seed", "steps", *OPTIMIZERS], lines)


def main(argv=None):
    out = pathlib.Path(__file__).parent / "benchmarks" / "from_scratch.csv"
    parser = command_line.parser_of_rows(__doc__, "fashion_mnist", 1, out)
    parser.add_argument("--nets", nargs="+", default=list(deep_nets.NETS))
    parser.add_argument(
        "--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS)
    )
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args(argv)
    done = {tuple(row[key] for key in SAME) for row in results.read(args.out)}
    wanted = [
        (net, name, rate, seed, args.steps)
        for net in args.nets
        for seed in range(args.seeds)
        for name in args.optimizers
        for rate in OPTIMIZERS[name][1]
        if (net, name, rate, seed, args.steps) not in done
    ]
    one = concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), max_tasks_per_child=1
    )
    with one as processes:
        for given in [] if args.report else wanted:
            row = processes.submit(run, *given, args.dataset).result()
            results.append(args.out, [row])
            print(*row.values(), flush=True)
    print(report(results.read(args.out)))


if __name__ == "__main__":
    main()
