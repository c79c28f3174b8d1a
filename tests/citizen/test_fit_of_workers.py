"""Keras's `fit` over several workers, a process each, one of which is killed."""

import signal

import numpy as np
from helpers import assert_close_weights, assert_equal_weights
from processes import Process, pythons

from parts.cluster import worker_environments

WORKERS = 2

FIT = """
import os, signal, sys
import tensorflow as tf

# Before anything else uses the devices.
strategy = tf.distribute.MultiWorkerMirroredStrategy()
worker = strategy.cluster_resolver.task_id

import contextlib
import keras, numpy as np
from helpers import weights_of
from keras_proxprop import CurvatureMemory, ProxProp

folder, task = sys.argv[1:]
L = keras.layers
random = np.random.default_rng(0)
# The last batch has three rows: two for one worker, and one for the other.
x = random.normal(size=(19, 5, 4)).astype("float32")
y = random.normal(size=(19, 3, 2)).astype("float32")
tf.config.experimental.enable_op_determinism()


class Death(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (2, 1):
            os.kill(os.getpid(), signal.SIGKILL)


def trained(name, scope, callbacks=()):
    keras.utils.set_random_seed(4)
    with scope:
        layers = [L.Dense(6, "tanh", kernel_regularizer="l2"), L.LayerNormalization()]
        layers += [L.Conv1D(3, 3, activation="tanh"), L.Dense(2)]
        model = keras.Sequential([keras.Input((5, 4)), *layers])
        # The convolution has memory, and the first layer has none. There are 12 steps.
        proxprop = ProxProp(memory=CurvatureMemory(refresh_every=5))
        model.compile(proxprop, "mse", metrics=["mae"], jit_compile=False)
    model.fit(x, y, 8, epochs=4, shuffle=False, verbose=0, callbacks=[*callbacks])
    loss = model.evaluate(x, y, batch_size=8, verbose=0)
    np.savez(f"{folder}/{name}.npz", *weights_of(model), loss)


if task == "both ways" and worker == 0:
    trained("alone", contextlib.nullcontext())
if task == "both ways":
    trained(f"undisturbed{worker}", strategy.scope())
callbacks = [keras.callbacks.BackupAndRestore(f"{folder}/backup{worker}")]
if task == "both ways" and worker == 1:
    callbacks.append(Death())
trained(f"resumed{worker}", strategy.scope(), callbacks)
"""


def ends(folder, *names):
    for name in names:
        with np.load(folder / f"{name}.npz") as file:
            yield [file[key] for key in file.files]


def test_fit_of_two_workers_is_that_of_one_device_and_goes_on_after_a_death(tmp_path):
    environments = worker_environments(WORKERS)
    workers = [Process(FIT, [tmp_path, "both ways"], each) for each in environments]
    try:
        assert workers[1].wait(500) == -signal.SIGKILL
        # As the others wait for it, whoever runs a cluster starts all of them again.
        assert workers[0].code() is None
    finally:
        for worker in workers:
            worker.kill()
    alone, first, second = ends(tmp_path, "alone", "undisturbed0", "undisturbed1")
    assert_equal_weights(first, second)
    # All but what `evaluate` returns: workers' parts of the last batch are not alike.
    assert_close_weights(first[:-1], alone[:-1], 1e-4)

    environments = worker_environments(WORKERS)
    pythons(FIT, tmp_path, "the rest", environments=environments, timeout=500)
    assert_equal_weights(*ends(tmp_path, "resumed0", "resumed1"))
    assert_equal_weights(first, next(ends(tmp_path, "resumed0")))
