"""Keras's `fit` over several workers, a process each, one of which is killed."""

import signal

import numpy as np
from helpers import assert_close_weights, assert_equal_weights
from scenarios import _started, python, pythons

from parts.cluster import worker_environments

WORKERS = 2

FIT = """
import os, signal, sys
import tensorflow as tf

# Before anything else uses the devices.
strategy, worker = tf.distribute.get_strategy(), "alone"
if "TF_CONFIG" in os.environ:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    worker = strategy.cluster_resolver.task_id

import keras, numpy as np
from helpers import weights_of
from keras_proxprop import CurvatureMemory, ProxProp

folder, dies = sys.argv[1], sys.argv[2:] == ["dies"]
L = keras.layers
random = np.random.default_rng(0)
# The last batch has three rows: two for one worker, and one for the other.
x = random.normal(size=(19, 5, 4)).astype("float32")
y = random.normal(size=(19, 3, 2)).astype("float32")
tf.config.experimental.enable_op_determinism()
keras.utils.set_random_seed(4)


class Death(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (2, 1):
            os.kill(os.getpid(), signal.SIGKILL)


with strategy.scope():
    layers = [L.Dense(6, "tanh", kernel_regularizer="l2"), L.LayerNormalization()]
    layers += [L.Conv1D(3, 3, activation="tanh"), L.LSTM(3, return_sequences=True)]
    model = keras.Sequential([keras.Input((5, 4)), *layers, L.Dense(2)])
    # By default the convolution has memory, and the first layer has none. There are 21 steps.
    model.compile(ProxProp(), "mse", metrics=["mae"], jit_compile=False)
callbacks = [keras.callbacks.BackupAndRestore(f"{folder}/backup{worker}")]
if dies and worker == 1:
    callbacks.append(Death())
model.fit(x, y, batch_size=8, epochs=7, shuffle=False, verbose=0, callbacks=callbacks)
loss = model.evaluate(x, y, batch_size=8, verbose=0)
np.savez(f"{folder}/{worker}.npz", *weights_of(model), loss)
"""


def ends(folder, *names):
    for name in names:
        with np.load(folder / f"{name}.npz") as file:
            yield [file[key] for key in file.files]


def test_fit_of_two_workers_is_that_of_one_device_and_goes_on_after_a_death(tmp_path):
    python(FIT, tmp_path)
    (alone,) = ends(tmp_path, "alone")
    pythons(FIT, tmp_path, environments=worker_environments(WORKERS), timeout=500)
    first, second = ends(tmp_path, 0, 1)
    assert_equal_weights(first, second)
    # All but what `evaluate` returns: workers' parts of the last batch are not alike.
    assert_close_weights(first[:-1], alone[:-1], 1e-4)

    killed = tmp_path / "killed"
    killed.mkdir()
    environments = worker_environments(WORKERS)
    workers = [_started(FIT, [killed, "dies"], environment) for environment in environments]
    try:
        workers[1].communicate(timeout=500)
        assert workers[1].returncode == -signal.SIGKILL
        # As the others wait for it, whoever runs a cluster starts all of them again.
        assert workers[0].poll() is None
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    pythons(FIT, killed, environments=worker_environments(WORKERS), timeout=500)
    assert_equal_weights(*ends(killed, 0, 1))
    assert_equal_weights(first, next(ends(killed, 0)))
