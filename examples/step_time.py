"""What a training step costs with ProxProp, in units of Keras's Adam.

Every optimizer trains the same model, compiled in the same way, through `model.fit`. The
optimizers take turns, a few steps each, so that a change in the machine's speed meets all
of them; the ratio to Adam is taken turn by turn, and its median and quartiles are printed.
Memory is the peak of a process of its own per optimizer, TensorFlow included (the compiler's
memory, too), and in brackets the peak of its steps once they are compiled.

    python examples/step_time.py --task mlp64 convnet500 --jit no
"""

import argparse
import csv
import ctypes
import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import keras_proxprop
from keras_proxprop import CurvatureMemory, solvers
from parts.models import (
    mlp,
    mobilenet,
    paper_convnet,
    paper_mlp,
    resnet_like,
    sequence_dense,
)

# name: (what it is, model, input shape, batch size)
TASKS = {
    "paper_mlp500": (
        "paper's MLP 3072-4000-1000-4000-10",
        lambda: paper_mlp((3072,)),
        (3072,),
        500,
    ),
    "mlp64": ("MLP 784-1000³-10", lambda: mlp((784,), 1000, 1000, 1000), (784,), 64),
    "mlp500": ("MLP 784-1000³-10", lambda: mlp((784,), 1000, 1000, 1000), (784,), 500),
    "mlp4096": ("MLP 784-1000³-10", lambda: mlp((784,), 1000, 1000, 1000), (784,), 4096),
    "convnet64": ("paper's ConvNet", paper_convnet, (32, 32, 3), 64),
    "convnet500": ("paper's ConvNet", paper_convnet, (32, 32, 3), 500),
    "resnet64": ("ResNet-like, 64 channels, 32×32", resnet_like, (32, 32, 3), 64),
    "sequence64": ("Dense 512-512 on 128 positions", sequence_dense, (128, 512), 64),
    "mobilenet32": ("MobileNet, half as wide, 64×64", mobilenet, (64, 64, 3), 32),
}

OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(),
    "sgd": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "muon": lambda: keras.optimizers.Muon(),
    "schedule-free-adam": lambda: keras_proxprop.ScheduleFreeAdam(),
    "proxprop": lambda: keras_proxprop.ProxProp(),
    "proxprop-memory": lambda: keras_proxprop.ProxProp(memory=CurvatureMemory(layers="all")),
    "proxprop-exact": lambda: keras_proxprop.ProxProp(solver="exact", memory=None),
    "proxprop-cg3": lambda: keras_proxprop.ProxProp(solver=solvers.ConjugateGradient(3)),
}


class StepTimer(keras.callbacks.Callback):
    """Notes the seconds of every training step."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_train_batch_begin(self, batch, logs=None):
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds.append(time.perf_counter() - self._start)


class Runner:
    """One model with one optimizer, trained a few steps at a time."""

    def __init__(self, task, optimizer, jit):
        _, make_model, shape, batch = TASKS[task]
        keras.utils.set_random_seed(0)
        self.model = make_model()
        self.model.compile(
            optimizer=OPTIMIZERS[optimizer](),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=jit,
        )
        rng = np.random.default_rng(0)
        x = rng.random((2 * batch, *shape), dtype="float32")
        y = rng.integers(0, 10, 2 * batch)
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch, drop_remainder=False)
        self.data = data.cache().repeat()

    def run(self, steps):
        """Returns the median seconds per step."""
        timer = StepTimer()
        self.model.fit(
            self.data, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[timer]
        )
        # The first step of a fit starts the input pipeline.
        return statistics.median(timer.seconds[1:])


def measure(task, names, jit, turns):
    """Returns `{optimizer: (seconds, [ratio to Adam per turn])}`."""
    runners = {name: Runner(task, name, jit) for name in names}
    per_step = {name: runner.run(3) for name, runner in runners.items()}
    steps = max(3, min(30, int(1.0 / per_step["adam"])))
    seconds = {name: [] for name in names}
    for _ in range(turns):
        for name, runner in runners.items():
            seconds[name].append(runner.run(steps + 1))
    return {
        name: (statistics.median(own), [a / b for a, b in zip(own, seconds["adam"])])
        for name, own in seconds.items()
    }


def peak_memory(task, name, jit):
    """Returns the MiB of a process that trains: at most, and at most after two steps."""
    command = [sys.executable, __file__, "--memory", task, name, str(int(jit))]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [float(number) for number in output.split()[-2:]]


def print_peak_memory(task, name, jit):
    runner = Runner(task, name, jit)
    runner.run(2)
    first = _peak()
    # Linux: what the compiler has freed goes back, and the peak is counted anew.
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    runner.run(4)
    print(max(first, _peak()), _peak())


def _peak():
    """Returns the peak resident size of this process in MiB, since it was last reset."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--optimizer", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--jit", choices=("no", "yes", "both"), default="both")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--no-memory", action="store_true", help="skip peak memory")
    parser.add_argument("--csv", type=pathlib.Path, help="append the results to this file")
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.memory:
        task, name, jit = args.memory
        return print_peak_memory(task, name, bool(int(jit)))

    names = ["adam", *(name for name in args.optimizer if name != "adam")]
    print(f"{tf.config.list_physical_devices()}, {os.cpu_count()} cores")
    print("ratio: median over turns of step time / Adam's, in brackets the quartiles\n")
    for task in args.task:
        for jit in {"no": (False,), "yes": (True,), "both": (False, True)}[args.jit]:
            what, _, _, batch = TASKS[task]
            print(f"{what}, batch {batch}, {'XLA' if jit else 'no XLA'}", flush=True)
            results = measure(task, names, jit, args.turns)
            base = None
            for name, (seconds, ratios) in results.items():
                low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
                spread = f"[{low:.2f}, {high:.2f}]"
                line = f"  {name:14s}{1e3 * seconds:8.1f} ms  {ratio:5.2f} {spread}"
                memory = [None, None]
                if not args.no_memory:
                    memory = peak_memory(task, name, jit)
                    base = base or memory
                    whole, steps = (a / b for a, b in zip(memory, base))
                    line += (
                        f"  {memory[0]:6.0f} [{memory[1]:.0f}] MiB  {whole:.2f} [{steps:.2f}]"
                    )
                print(line, flush=True)
                if args.csv:
                    row = [task, batch, int(jit), name, seconds, ratio, low, high, *memory]
                    with args.csv.open("a", newline="") as file:
                        csv.writer(file).writerow(row)


if __name__ == "__main__":
    main()
