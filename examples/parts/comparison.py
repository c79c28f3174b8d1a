"""One model trained by Adam and by ProxProp, each at the best learning rate of one grid."""

import argparse
import sys

import keras
import numpy as np

import keras_proxprop
from parts.training import Snapshot

OPTIMIZERS = {
    "Adam": keras.optimizers.Adam,
    "ProxProp": lambda rate: keras_proxprop.ProxProp(learning_rate=rate),
}


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RATES = [1e-3, 3e-3, 1e-2]


def parsed(doc, epochs, batch_size, quick):
    """Returns what the command line says, with the learning rates to try.

    Args:
        doc: the program's docstring.
        epochs, batch_size: defaults, ints.
        quick: what `--quick` does besides training for 2 epochs at one learning rate.
    """
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    told = f"{epochs} unless told, with --quick 2"
    parser.add_argument("--epochs", type=int, help=told)
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help=f"{quick}, one rate")
    args = parser.parse_args()
    args.epochs = args.epochs or (2 if args.quick else epochs)
    args.rates = RATES[1:2] if args.quick else RATES
    return args


def compare(make_model, data, args):
    """Trains with every optimizer at every learning rate; prints losses and their ratio.

    All trainings start from the same weights and see the same batches in the same order. The
    best rate is the one with the lowest training loss after the last epoch.

    Args:
        make_model: function that returns the model, whose outputs are logits.
        data: `(x, y, x_validation, y_validation)`.
        args: what `parsed` returned.

    Returns:
        `{optimizer: (rate, training loss, validation loss)}` at its best rate.
    """
    x, y, *validation = data
    rates, best = args.rates, {}
    for name, make_optimizer in OPTIMIZERS.items():
        keras.utils.set_random_seed(args.seed)
        model = make_model()
        # XLA would compile for longer than these models train.
        model.compile(optimizer=make_optimizer(rates[0]), loss=LOSS, jit_compile=False)
        model.optimizer.build(model.trainable_variables)
        start = Snapshot(model)
        print(f"{name}, {args.epochs} epochs at each of the learning rates {rates}")
        for rate in rates:
            start.restore()
            model.optimizer.learning_rate = rate
            _train(model, x, y, f"  {rate:<8g}", args)
            losses = [
                model.evaluate(*part, batch_size=256, verbose=0)
                for part in ((x, y), validation)
            ]
            print(f"training loss {losses[0]:.4g}, validation loss {losses[1]:.4g}")
            # A loss that is not a number is less than none.
            if name not in best or losses[0] < best[name][1]:
                best[name] = rate, *losses
    print(f"\n{'':10s}learning rate  training loss  validation loss")
    for name, (rate, *losses) in best.items():
        print(f"{name:10s}{rate:<15g}{losses[0]:<15.4g}{losses[1]:<15.4g}")
    for i, what in enumerate(("training", "validation"), 1):
        ratio = best["ProxProp"][i] / best["Adam"][i]
        print(f"ProxProp's {what} loss is {ratio:.2f} times Adam's")
    return best


def _train(model, x, y, label, args):
    order, batch_size = np.random.default_rng(args.seed), args.batch_size
    for epoch in range(args.epochs):
        shuffled = order.permutation(len(x))
        losses = []
        for start in range(0, len(x) - batch_size + 1, batch_size):
            batch = shuffled[start : start + batch_size]
            losses.append(model.train_on_batch(x[batch], y[batch]))
        if sys.stdout.isatty():
            progress = f"epoch {epoch + 1}/{args.epochs}: loss {np.mean(losses):.4f}"
            print(f"\r{label}{progress}", end=" ", flush=True)
    print(f"\r{label}" if sys.stdout.isatty() else label, end="", flush=True)
