"""Directions of all weights of a model against a solve in NumPy."""

import keras
import numpy as np
import tensorflow as tf
from helpers import assert_close, implicit_direction

from keras_proxprop import ImplicitGradientTape

layers, ops = keras.layers, keras.ops
TAU = 0.5


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def check(model, x, implicit, extra=None, wrap=lambda f: f, **options):
    """Compares the tape's directions with preconditioned gradients of a plain tape.

    Args:
        implicit: `{layer: its inputs, one array per call}`; all other weights must
            have their plain gradients.
        extra: function without arguments of a part of the loss, or `None`.
        wrap: what the step runs in, such as `tf.function`.
    """

    def loss():
        outputs = [tf.reduce_mean(tf.square(z + 1)) for z in tf.nest.flatten(model(x))]
        return tf.add_n(outputs + model.losses) + (extra() if extra else 0.0)

    model(x)
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        value = loss()
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(value, variables)]

    @wrap
    def directions():
        with ImplicitGradientTape(model, tau=TAU, **options) as tape:
            value = loss()
        return [tf.convert_to_tensor(d) for d in tape.gradient(value, variables)]

    expected = {v.path: g for v, g in zip(variables, gradients)}
    for layer, rows in implicit.items():
        own = [v.path for v in layer.trainable_variables]
        solved = implicit_direction(
            [ops.convert_to_numpy(r) for r in rows],
            [ops.reshape(expected[path], (-1, expected[path].shape[-1])) for path in own],
            TAU,
        )
        expected.update(zip(own, solved))
    for v, direction in zip(variables, directions()):
        assert_close(ops.reshape(direction, (-1,)), ops.reshape(expected[v.path], (-1,)), 2e-5)
