"""Two models that train in two threads, each under a strategy, train as they do alone."""

from processes import python

THREADS = """
import threading
import keras, numpy as np, tensorflow as tf
from helpers import assert_equal_weights
from logical_devices import logical_devices
from scenarios import state
from keras_proxprop import CurvatureMemory, ProxProp

devices = logical_devices(2)
tf.config.experimental.enable_op_determinism()
L = keras.layers
random = np.random.default_rng(0)
x = random.normal(size=(240, 6)).astype("float32")
y = np.tanh(x[:, :2])


def new(seed):
    # Collective operations of two strategies would wait for one another.
    reduction = tf.distribute.ReductionToOneDevice()
    with tf.distribute.MirroredStrategy(devices, reduction).scope():
        keras.utils.set_random_seed(seed)
        model = keras.Sequential([keras.Input((6,)), L.Dense(5, "tanh"), L.Dense(2)])
        memory = CurvatureMemory(layers="all", refresh_every=7) if seed else None
        model.compile(ProxProp(memory=memory), "mse", jit_compile=False)
    return model


def train(model):
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)


alone, together = [new(0), new(1)], [new(0), new(1)]
for model in alone:
    train(model)
threads = [threading.Thread(target=train, args=(model,)) for model in together]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for one, other in zip(alone, together):
    assert other.optimizer.iterations.numpy() == 30
    assert_equal_weights(state(other), state(one))
print("equal")
"""


def test_two_threads_train_to_the_bit_as_each_does_alone():
    assert "equal" in python(THREADS)
