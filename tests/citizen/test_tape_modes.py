"""A tape does the same eagerly, in a graph, compiled by XLA, and in every replica."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, implicit_direction
from processes import python

from keras_proxprop import ImplicitGradientTape

TAU = 0.5
WRAPS = {
    "eager": lambda f: f,
    "graph": tf.function,
    "xla": functools.partial(tf.function, jit_compile=True),
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_tape_that_persists_stops_resets_and_is_entered_again(wrap):
    hidden, last = keras.layers.Dense(3, "tanh"), keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((4,)), hidden, last])
    random = np.random.default_rng(0)
    x, other = (tf.constant(random.normal(size=(n, 4)), "float32") for n in (7, 5))
    weights = model.trainable_variables

    def step(tape):
        with tape:
            model(other)
            tape.reset()
            with tape.stop_recording():
                forgotten = tf.reduce_sum(model(other) ** 2)
            loss = tf.reduce_sum(model(x) ** 2) + forgotten
        with tape:
            again = loss + tf.reduce_sum(tf.sin(model(other)))
        zero = {"unconnected_gradients": "zero"}
        unused = tf.constant([1.0, 2.0])
        return (
            tape.gradient(loss, weights),
            tape.gradient(again, weights, output_gradients=[tf.constant(2.0)]),
            tape.gradient(loss, unused, **zero),
            tape.jacobian(model.layers[-1].kernel * 1.0, x, **zero),
        )

    expected = step(tf.GradientTape(persistent=True))

    @WRAPS[wrap]
    def compiled():
        return step(ImplicitGradientTape(model, tau=TAU, persistent=True))

    actual = compiled()
    for i, rows in enumerate([[x], [x, other]]):
        solved = implicit_direction(rows, expected[i][:2], TAU) + expected[i][2:]
        for a, e in zip(actual[i], solved):
            assert_close(a, e, 1e-4)
    for a, e in zip(actual[2:], expected[2:]):
        np.testing.assert_array_equal(a, e)


TWO_REPLICAS = """
import keras, numpy as np, tensorflow as tf
from helpers import assert_close, implicit_direction
from logical_devices import mirrored
from keras_proxprop import ImplicitGradientTape

strategy = mirrored(2)
x = np.random.default_rng(0).normal(size=(2, 6, 4)).astype("float32")
with strategy.scope():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "tanh")])
weights = model.trainable_variables


def step(part, tape):
    with tape:
        with tape.stop_recording():
            model(-part)
        tape.watch([w.value for w in weights])
        loss = tf.reduce_sum(model(part) ** 3)
    return tape.gradient(loss, weights), tape.gradient(loss, weights)


@tf.function
def replicated(parts):
    def one(part):
        return step(
            part,
            ImplicitGradientTape(
                model,
                tau=0.5,
                final_layer="implicit",
                persistent=True,
                watch_accessed_variables=False,
            ),
        )

    return strategy.run(one, args=(parts,))


parts = strategy.experimental_distribute_values_from_function(
    lambda context: tf.constant(x[context.replica_id_in_sync_group])
)
first, second = replicated(parts)
for i in range(2):
    plain, _ = step(tf.constant(x[i]), tf.GradientTape(persistent=True))
    # Its part of the direction, from its own gradient and the rows of both.
    expected = implicit_direction(x, plain, 0.5)
    for found in (first, second):
        for values, e in zip(found, expected):
            assert_close(strategy.experimental_local_results(values)[i], e, 1e-4)
assert all("call" not in vars(layer) for layer in model._flatten_layers())
print("equal")
"""


def test_every_replica_has_its_part_of_the_directions():
    assert "equal" in python(TWO_REPLICAS)
