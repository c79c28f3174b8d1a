"""One model trained by Adam and by ProxProp, each at the best learning rate of one grid."""

import sys

import keras
import numpy as np

import keras_proxprop

OPTIMIZERS = {
    "Adam": keras.optimizers.Adam,
    "ProxProp": lambda rate: keras_proxprop.ProxProp(learning_rate=rate),
}


def compare(make_model, loss, data, rates, epochs, batch_size, seed):
    """Trains with every optimizer at every learning rate; prints losses and their ratio.

    All trainings start from the same weights and see the same batches in the same order. The
    best rate is the one with the lowest training loss after the last epoch.

    Args:
        make_model: function that returns the model.
        loss: Keras loss.
        data: `(x, y, x_validation, y_validation)`.
        rates: learning rates to try.
        epochs, batch_size, seed: ints.

    Returns:
        `{optimizer: (rate, training loss, validation loss)}` at its best rate.
    """
    x, y, *validation = data
    best = {}
    for name, make_optimizer in OPTIMIZERS.items():
        keras.utils.set_random_seed(seed)
        model = make_model()
        # XLA would compile for longer than these models train.
        model.compile(optimizer=make_optimizer(rates[0]), loss=loss, jit_compile=False)
        model.optimizer.build(model.trainable_variables)
        state = model.variables + model.optimizer.variables
        start = [v.numpy() for v in state]
        print(f"{name}, {epochs} epochs at each of the learning rates {rates}")
        for rate in rates:
            for variable, value in zip(state, start):
                variable.assign(value)
            model.optimizer.learning_rate = rate
            _train(model, x, y, f"  {rate:<8g}", epochs, batch_size, seed)
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


def _train(model, x, y, label, epochs, batch_size, seed):
    order = np.random.default_rng(seed)
    for epoch in range(epochs):
        shuffled = order.permutation(len(x))
        losses = []
        for start in range(0, len(x) - batch_size + 1, batch_size):
            batch = shuffled[start : start + batch_size]
            losses.append(model.train_on_batch(x[batch], y[batch]))
        if sys.stdout.isatty():
            progress = f"epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.4f}"
            print(f"\r{label}{progress}", end=" ", flush=True)
    print(f"\r{label}" if sys.stdout.isatty() else label, end="", flush=True)
