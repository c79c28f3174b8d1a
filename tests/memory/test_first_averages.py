"""What an average is after its first batch, and after batches of zeros."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close

from keras_proxprop import CurvatureMemory, ProxProp

rng = np.random.default_rng(0)
X = rng.normal(size=(64, 4)).astype("float32")
Y = np.tanh(X[:, :1])


def change_in_a_step(memory, zeros=0, use_bias=True):
    """Returns how a kernel changes in a step after `zeros` steps whose inputs are zeros."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, "tanh", use_bias=use_bias), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input([4]), *layers])
    model.compile(ProxProp(keras.optimizers.SGD(0.1), memory=memory), "mse")
    if zeros:
        nothing = tf.data.Dataset.from_tensors((0 * X, Y)).repeat(zeros)
        model.fit(nothing, verbose=0)
    before = layers[0].kernel.numpy()
    model.train_on_batch(X, Y)
    return layers[0].kernel.numpy() - before


@pytest.mark.parametrize(
    "decay, refresh_every",
    [(0.9, 100), (0.9999, 100), (0.99999, 1000), (0.9, 10**6), (0.9, 10**7)],
)
def test_the_first_step_is_that_without_memory(decay, refresh_every):
    memory = CurvatureMemory(decay=decay, refresh_every=refresh_every, layers="all")
    assert_close(change_in_a_step(memory), change_in_a_step(None), 1e-4)


def test_batches_of_zeros_before_any_other_are_no_average():
    memory = CurvatureMemory(layers="all")
    change = change_in_a_step(memory, zeros=402, use_bias=False)
    assert_close(change, change_in_a_step(None, zeros=402, use_bias=False), 1e-4)
