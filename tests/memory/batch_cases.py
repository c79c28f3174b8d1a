"""A dense net, and ways to feed it with batches of a size."""

import keras
import numpy as np
import tensorflow as tf

from keras_proxprop import ImplicitGradientTape, ProxProp

L = keras.layers
LARGE = 640
FEATURES, ROWS = 40, 2 * LARGE
random = np.random.default_rng(0)
X = random.normal(size=(ROWS, FEATURES)).astype("float32")
Y = random.normal(size=(ROWS, 1)).astype("float32")


def net(optimizer=None):
    keras.utils.set_random_seed(0)
    layers = [L.Dense(200, activation="tanh") for _ in range(3)]
    model = keras.Sequential([keras.Input((FEATURES,)), *layers, L.Dense(1)])
    model.compile(optimizer or ProxProp(), "mse", jit_compile=False)
    return model


def saved_batch_size(model):
    store = {}
    model.optimizer.save_own_variables(store)
    return int(store["curvature_batch_size"])


def dataset(batch_size, **arguments):
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(batch_size, **arguments)


def in_own_loop(traced):
    def train(model, size, data=None):
        def step(x, y):
            with ImplicitGradientTape(model, **model.optimizer.step_arguments()) as tape:
                loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            weights = model.trainable_weights
            model.optimizer.apply(tape.gradient(loss, weights), weights)

        step = tf.function(step) if traced else step
        for x, y in data or dataset(size):
            step(x, y)

    return train
