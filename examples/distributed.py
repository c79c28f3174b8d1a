"""Trains on one device and on several, and says how far their weights are apart.

python examples/distributed.py --devices 4    four logical CPU devices, MirroredStrategy
python examples/distributed.py --workers 2    two processes, MultiWorkerMirroredStrategy

It prints the time of a step, the bytes that replicas send in it (the mean over steps), and the
largest difference from the weights of one device.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import keras_proxprop
from parts.cluster import worker_environments

ROWS, BATCH_SIZE = 1000, 64


def data():
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, 8, 8, 1)).astype("float32")
    return x, np.tanh(x[:, :3, 0, 0])


def compiled(args):
    keras.utils.set_random_seed(0)
    # No relu: a preactivation that rounding moves over the kink would show as a difference.
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(8, 3, activation="tanh"),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="tanh"),
            keras.layers.Dense(3),
        ]
    )
    optimizer = keras_proxprop.ProxProp(cross_replica=args.cross_replica)
    model.compile(optimizer, loss="mse", jit_compile=False)
    return model


def trained(strategy, args):
    """Returns a model after `args.epochs`, and the seconds of a step of the last one."""
    with strategy.scope():
        model = compiled(args)
    x, y = data()
    fit = {"batch_size": BATCH_SIZE, "shuffle": False, "verbose": 0}
    # The first epoch traces the step.
    model.fit(x, y, epochs=args.epochs - 1, **fit)
    begin = time.perf_counter()
    model.fit(x, y, **fit)
    return model, (time.perf_counter() - begin) / -(-ROWS // BATCH_SIZE)


def report(name, replicas, model, weights, seconds, alone):
    rows = keras_proxprop.summary(
        model, BATCH_SIZE, replicas=replicas, print_fn=lambda line: None
    )
    apart = max(np.abs(a - b).max() for a, b in zip(weights, alone))
    print(
        f"{name}: {1000 * seconds:.1f} ms a step, {sum(row.sent for row in rows):,.0f} bytes "
        f"a step, largest difference {apart:.1e}"
    )


def by_workers(args):
    """Returns the weights that worker processes end with, and the seconds of a step."""
    with tempfile.TemporaryDirectory() as folder:
        ends = [pathlib.Path(folder, f"{i}.npz") for i in range(args.workers)]
        command = [sys.executable, *sys.argv]
        processes = []
        try:
            for end, own in zip(ends, worker_environments(args.workers)):
                own["PROXPROP_END"] = str(end)
                processes.append(subprocess.Popen(command, env={**os.environ, **own}))
            codes = [process.wait() for process in processes]
            if any(codes):
                raise RuntimeError("A worker failed; its error is above.")
        finally:
            for process in processes:
                process.kill()
        with np.load(ends[0]) as file:
            seconds, *weights = (file[key] for key in file.files)
    return weights, float(seconds)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--cross-replica", default="exact", choices=["exact", "mean"])
    args = parser.parse_args(argv)
    if "PROXPROP_END" in os.environ:
        # One of the workers; before anything else uses the devices.
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        model, seconds = trained(strategy, args)
        np.savez(os.environ["PROXPROP_END"], seconds, *model.get_weights())
        return
    if args.devices > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * args.devices
        tf.config.set_logical_device_configuration(cpu, parts)
    model, seconds = trained(tf.distribute.get_strategy(), args)
    alone = model.get_weights()
    report("one device", 1, model, alone, seconds, alone)
    if args.devices > 1:
        devices = [device.name for device in tf.config.list_logical_devices("CPU")]
        model, seconds = trained(tf.distribute.MirroredStrategy(devices), args)
        found = model, model.get_weights(), seconds
        report(f"{args.devices} devices", args.devices, *found, alone)
    if args.workers > 1:
        weights, seconds = by_workers(args)
        report(f"{args.workers} workers", args.workers, model, weights, seconds, alone)


if __name__ == "__main__":
    main()
