"""Several workers, a process each, together make the step of the global batch."""

import numpy as np
import pytest
from helpers import assert_close_weights, assert_equal_weights
from processes import pythons

from keras_proxprop.memory.averaged_gram import KEPT
from parts.cluster import worker_environments

WORKERS = 2
TRAIN = """
import sys
import tensorflow as tf

# Before anything else uses the devices.
strategy = tf.distribute.MultiWorkerMirroredStrategy()
workers = strategy.num_replicas_in_sync

import keras, numpy as np
from helpers import weights_of
from keras_proxprop import CurvatureMemory, ImplicitGradientTape, ProxProp, machine, replicas

folder, refreshes = sys.argv[1:]
if refreshes == "in turns":
    # As if the refresh of each layer were a lot of work.
    object.__setattr__(machine.CPU, "at_once", 1e-9)
worker = strategy.cluster_resolver.task_id
L = keras.layers
random = np.random.default_rng(0)
x = random.normal(size=(20, 8, 5, 4)).astype("float32")
y = random.normal(size=(20, 8, 3, 2)).astype("float32")


def new():
    keras.utils.set_random_seed(4)
    layers = [L.Dense(6, "tanh"), L.Conv1D(3, 3, activation="tanh"), L.Dense(2)]
    model = keras.Sequential([keras.Input((5, 4)), *layers])
    sgd = keras.optimizers.SGD(0.5, momentum=0.9)
    optimizer = ProxProp(sgd, memory=CurvatureMemory(layers="all", refresh_every=4))
    optimizer.build(model.trainable_variables)
    return model, optimizer


def train(model, optimizer, run, rows, replicas):
    def replica(x, y):
        with ImplicitGradientTape(model, **optimizer.step_arguments()) as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2) / replicas
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))

    step = tf.function(lambda x, y: run(replica, args=(x, y)))
    for batch_x, batch_y in zip(x, y):
        step(tf.constant(batch_x[rows]), tf.constant(batch_y[rows]))
    kept = [v.numpy() for v in optimizer.variables if "curvature" in v.path]
    return [*weights_of(model), *kept]


alone = train(*new(), lambda f, args: f(*args), slice(None), 1)
with strategy.scope():
    made = new()
together = train(*made, strategy.run, slice(worker, None, workers), workers)
np.savez(f"{folder}/alone{worker}.npz", *alone)
np.savez(f"{folder}/together{worker}.npz", *together)
states = made[1]._curvatures._states.values()
turns = len({int(state.refreshed.numpy()) for state in states})
print(workers, "workers,", turns, "turns,", replicas.on_several_workers(strategy))
"""


@pytest.mark.parametrize("refreshes, turns", [("at once", 1), ("in turns", 2)])
def test_two_workers_make_the_step_of_the_global_batch(tmp_path, refreshes, turns):
    environments = worker_environments(WORKERS)
    said = pythons(TRAIN, tmp_path, refreshes, environments=environments, timeout=400)
    expected = f"{WORKERS} workers, {turns} turns, True"
    assert [each.strip() for each in said] == [expected] * WORKERS
    states = {}
    for name in ("alone0", "together0", "together1"):
        with np.load(tmp_path / f"{name}.npz") as file:
            states[name] = [file[key] for key in file.files]
    # Six weights, and what is kept of each of the two layers that step implicitly.
    assert len(states["alone0"]) == 6 + 2 * len(KEPT)
    assert_equal_weights(states["together1"], states["together0"])
    assert_close_weights(states["together0"], states["alone0"], 1e-3)
