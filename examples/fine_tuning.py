"""Fine-tuning of all layers on few images: `ProxProp()` untuned against tuned Adam.

    python examples/fine_tuning.py
    python examples/fine_tuning.py --report

Adam first trains a net on six classes of Fashion-MNIST. With a new last layer, all of its
layers then learn from a hundred images of each class: of the same classes ("near"), or of all
ten ("far"). The table has the lowest validation loss of twelve epochs, the epoch it is of, and
the accuracy there, with Adam at the best of four learning rates. Validation images are none of
the others. Each run is in the CSV file at once; started again, the program does what is
missing.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from keras_proxprop import ProxProp
from parts import command_line, datasets, models, results

L = keras.layers
KNOWN, BATCH, VALIDATED = 6, 32, 2000
TASKS = "near", "far"
# {name: (optimizer, learning rates)}; "" is the rate that it has by itself.
OPTIMIZERS = {
    "Adam": (keras.optimizers.Adam, (3e-5, 1e-4, 3e-4, 1e-3)),
    "ProxProp()": (ProxProp, ("",)),
    "ProxProp(3e-4)": (ProxProp, (3e-4,)),
}
SAME = "net", "task", "optimizer", "rate", "seed"


def convolutions(shape):
    layers = [keras.Input(shape)]
    for filters in (32, 64, 64):
        layers += [L.Conv2D(filters, 3, padding="same", activation="relu"), L.MaxPooling2D()]
    layers += [L.Flatten(), L.Dense(128, activation="relu"), L.Dense(10)]
    return keras.Sequential(layers)


NETS = {
    "convolutions": convolutions,
    "residual": models.small_resnet,
    "transformer": lambda shape: models.small_vit(shape, patch=shape[0] // 4),
}


def body(net, shape):
    """Returns one of `NETS` without its last layer."""
    model = NETS[net](shape)
    return keras.Model(model.inputs, model.layers[-1].input)


def fit(base, classes, optimizer, data, epochs, validation=None):
    """Trains a net with a new last layer; returns what `fit` returns as history."""
    model = keras.Sequential([base, L.Dense(classes, "softmax")])
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    how = {"batch_size": BATCH, "verbose": 0, "validation_data": validation}
    return model.fit(*data, epochs=epochs, validation_batch_size=500, **how).history


def pretrained(net, data, count):
    """Returns the weights of a net that Adam has trained on the known classes."""
    keras.utils.set_random_seed(0)
    own = body(net, data.shape)
    known = np.flatnonzero(data.y < KNOWN)[:count]
    fit(own, KNOWN, keras.optimizers.Adam(1e-3), (data.x[known], data.y[known]), 3)
    return own.get_weights()


def run(net, task, name, rate, seed, weights, data, epochs):
    """Fine-tunes a net; returns the row of the CSV file."""
    classes = KNOWN if task == "near" else 10
    # The last images: others than those that the net has seen.
    few = np.concatenate([np.flatnonzero(data.y == c)[-100:] for c in range(classes)])
    kept = np.flatnonzero(data.y_val < classes)[:VALIDATED]
    # Not 0, which gives the last layer that the known classes were learned with.
    keras.utils.set_random_seed(seed + 1)
    own = body(net, data.shape)
    own.set_weights(weights)
    optimizer, _ = OPTIMIZERS[name]
    optimizer = optimizer(rate) if rate else optimizer()
    validation = data.x_val[kept], data.y_val[kept]
    history = fit(own, classes, optimizer, (data.x[few], data.y[few]), epochs, validation)
    best = int(np.argmin(history["val_loss"]))
    found = {key: f"{history[key][best]:.4g}" for key in ("val_loss", "val_accuracy")}
    return dict(zip(SAME, (net, task, name, rate, seed))) | {"epoch": best + 1} | found


def report(rows):
    """Returns the table in Markdown: means over the seeds, of Adam those of its best rate."""
    lines = []
    for (net, task), own in results.grouped(rows, "net", "task").items():
        line = [net, task]
        for name in OPTIMIZERS:
            tried = [row for row in own if row["optimizer"] == name]
            means = [
                [np.mean([row[key] for row in same]) for key in ("val_loss", "epoch")]
                + [np.mean([row["val_accuracy"] for row in same]), rate]
                for rate, same in results.grouped(tried, "rate").items()
            ]
            if not means:
                line.append("–")
                continue
            loss, epoch, accuracy, rate = min(means, key=lambda mean: mean[0])
            rate = f" ({rate:g})" if name == "Adam" else ""
            line.append(f"{loss:.3f}, {accuracy:.1%} after {epoch:.2g}{rate}")
        lines.append(line)
    return results.markdown(["net", "task", *OPTIMIZERS], lines)


def main(argv=None):
    out = pathlib.Path(__file__).parent / "benchmarks" / "fine_tuning.csv"
    parser = command_line.parser_of_rows(__doc__, "fashion_mnist", 2, out)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--images", type=int, default=30_000, help="to train on at first")
    args = parser.parse_args(argv)
    done = {tuple(row[key] for key in SAME) for row in results.read(args.out)}
    wanted = [
        (net, task, name, rate, seed)
        for net in args.nets
        for task in TASKS
        for name, (_, rates) in OPTIMIZERS.items()
        for rate in rates
        for seed in range(args.seeds)
        if (net, task, name, rate, seed) not in done
    ]
    data, known = None if args.report else datasets.load(args.dataset), {}
    for net, *given in [] if args.report else wanted:
        if net not in known:
            known[net] = pretrained(net, data, args.images)
        row = run(net, *given, known[net], data, args.epochs)
        results.append(args.out, [row])
        print(*row.values(), flush=True)
    print(report(results.read(args.out)))


if __name__ == "__main__":
    main()
