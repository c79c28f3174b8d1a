"""Kills a training again and again, resumes it, and compares the end with a training that
nothing disturbed, bit for bit.

    python tests/citizen/killed_training.py --kills 20

Each kill is a SIGKILL at a random batch of an epoch, or at a random array while a checkpoint
is written. Keras's `BackupAndRestore` keeps the checkpoint before that one. (It cannot resume
from a kill between its two files, nor from one in the very first checkpoint.)
"""

import argparse
import os
import pathlib
import signal
import sys
import tempfile

import h5py
import keras
import numpy as np
import scenarios
import tensorflow as tf

from keras_proxprop import CurvatureMemory, ProxProp

BATCHES = 4
# Arrays of a checkpoint: weights, and what the optimizer keeps.
ARRAYS = 30


class Death(keras.callbacks.Callback):
    """Kills the process in an epoch: after a batch, or at an array of the checkpoint."""

    def __init__(self, epoch, batch=None, array=None):
        super().__init__()
        self.epoch, self.batch, self.array = epoch, batch, array

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, self.batch):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_epoch_end(self, epoch, logs=None):
        if epoch != self.epoch or self.array is None:
            return
        create, left = h5py.Group.create_dataset, iter(range(self.array))

        def killing(*args, **kwargs):
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return create(*args, **kwargs)

        h5py.Group.create_dataset = killing


def train(folder, epochs, death=None):
    """Trains, from the last checkpoint in a folder where there is one, and leaves there what
    training changed."""
    tf.config.experimental.enable_op_determinism()
    model = scenarios.convnet()
    schedule = keras.optimizers.schedules.ExponentialDecay(0.02, 9, 0.9)
    memory = CurvatureMemory(refresh_every=5, layers="all")
    optimizer = ProxProp(learning_rate=schedule, memory=memory, use_ema=True)
    scenarios.compiled(model, optimizer)
    x = np.random.default_rng(0).normal(size=(8 * BATCHES - 3, 6, 6, 1)).astype("float32")
    callbacks = [death] if death else []
    callbacks += [keras.callbacks.BackupAndRestore(folder / "backup", double_checkpoint=True)]
    scenarios.fit(model, x, np.tanh(x[:, :2, 0, 0]), epochs=epochs, callbacks=callbacks)
    np.savez(folder / "end.npz", *scenarios.state(model))


def in_a_process(*args):
    """Calls `train` in a copy of this process; returns the signal that ended it, or 0."""
    # TensorFlow is imported here, and starts its threads when it is first used: there.
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            train(*args)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if status and not os.WIFSIGNALED(status):
        raise RuntimeError("The training failed; its error is above.")
    return os.WTERMSIG(status)


def deaths(kills, seed):
    """Returns as many random deaths, of one epoch after the other."""
    random = np.random.default_rng(seed)
    made, epoch = [], 0
    for i in range(kills):
        epoch += int(random.integers(1 if i == 0 else 0, 2, endpoint=True))
        if i % 2:
            made.append(Death(epoch, array=int(random.integers(ARRAYS))))
        else:
            made.append(Death(epoch, batch=int(random.integers(BATCHES))))
    return made


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chosen = deaths(args.kills, args.seed)
    epochs = chosen[-1].epoch + 2
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = pathlib.Path(folder, "whole"), pathlib.Path(folder, "killed")
        whole.mkdir()
        killed.mkdir()
        in_a_process(whole, epochs)
        for i, death in enumerate(chosen):
            point = f"batch {death.batch}" if death.array is None else f"array {death.array}"
            ended = in_a_process(killed, epochs, death)
            print(f"kill {i + 1}: epoch {death.epoch}, {point}: signal {ended}", flush=True)
            if ended != signal.SIGKILL:
                return "The training was not killed."
        in_a_process(killed, epochs)
        with np.load(whole / "end.npz") as a, np.load(killed / "end.npz") as b:
            different = [name for name in a.files if not np.array_equal(a[name], b[name])]
            print(f"{len(a.files)} arrays, {len(different)} of them different")
    return f"Different: {different}" if different else 0


if __name__ == "__main__":
    sys.exit(main())
