"""What workers, a process each, send in a step, beside what they send with Adam."""

import ast

from processes import pythons

from parts.cluster import worker_environments

TRAFFIC = """
import tensorflow as tf

# Before anything else uses the devices.
strategy = tf.distribute.MultiWorkerMirroredStrategy()

import keras, numpy as np
from helpers import relative_error, weights_of
from keras_proxprop import CurvatureMemory, ProxProp
from keras_proxprop.optimizers import finding
from traffic import Count, count_from_now_on

count_from_now_on()
L = keras.layers
random = np.random.default_rng(0)
# The last batch has three rows: two for one worker, and one for the other.
x = random.normal(size=(19, 6, 4)).astype("float32")
y = random.normal(size=(19, 2)).astype("float32")


# Its Dense layer has six rows for an item, and does not see that.
class Folded(L.Layer):
    def build(self, shape):
        self.dense = L.Dense(4, "tanh")
        self.dense.build((None, 4))

    def call(self, x):
        return keras.ops.reshape(self.dense(keras.ops.reshape(x, (-1, 4))), (-1, 6, 4))


# With Adam Keras's `fit` fails on several workers. Here it is mended for Adam, too.
class MendedForAdam(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.found = found = finding.find_proxprop
        finding.find_proxprop = lambda optimizer: found(optimizer) or ProxProp()

    def on_train_begin(self, logs=None):
        finding.find_proxprop = self.found


def trained(new, alike=False, folded=False, epochs=6):
    keras.utils.set_random_seed(4)
    layers = [L.Conv1D(3, 3, activation="tanh"), L.Flatten(), L.Dense(5, "tanh"), L.Dense(2)]
    model = keras.Sequential([keras.Input((6, 4)), *[Folded()] * folded, *layers])
    model.compile(new(), "mse", jit_compile=False)
    count, data = Count(1), {"x": x, "y": y, "batch_size": 8, "shuffle": False}
    if alike:
        # From one that has an end, a worker may get an empty batch.
        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(8, drop_remainder=True)
        data = {"x": batches.repeat(), "steps_per_epoch": 2}
    callbacks = [MendedForAdam()] if new is keras.optimizers.Adam else []
    model.fit(**data, epochs=epochs, verbose=0, callbacks=[*callbacks, count])
    return count.bytes, weights_of(model)


def default():
    return ProxProp(memory=CurvatureMemory(layers="all", refresh_every=30))


_, alone = trained(default, folded=True, epochs=2)
with strategy.scope():
    for alike in (False, True):
        print(trained(keras.optimizers.Adam, alike, epochs=1)[0])
    print(trained(default)[0])
    print(trained(default, alike=True)[0])
    _, together = trained(default, folded=True, epochs=2)
print(float(max(map(relative_error, together, alone))))
"""


def test_workers_send_one_number_more_than_with_adam_or_none():
    said = pythons(TRAFFIC, environments=worker_environments(2), timeout=400)
    assert said[0] == said[1]
    said = map(ast.literal_eval, said[0].splitlines())
    *adam, unknown, alike, apart = said
    # The number of a batch's rows, where a worker does not know the size of its part before.
    assert min(unknown) == max(adam[0]) + 4
    assert min(alike) == max(adam[1])
    # And those of refreshes.
    assert len(set(unknown)) == len(set(alike)) == 2
    # Where a layer's rows are not so many for every item, numbers of rows are sent as well.
    assert apart < 1e-4
