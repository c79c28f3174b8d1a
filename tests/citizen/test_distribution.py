"""Under a strategy, replicas together make the step of the global batch."""

import pytest
from processes import python

SETUP = """
import keras, numpy as np, tensorflow as tf
from helpers import assert_close, assert_close_weights, weights_of
from logical_devices import mirrored
from keras_proxprop import CurvatureMemory, ProxProp, RowAdam
from keras_proxprop.memory.averaged_gram import KEPT

strategy = mirrored(2)
assert strategy.num_replicas_in_sync == 2
L = keras.layers
"""

TWO_REPLICAS = """
def compiled(inner):
    keras.utils.set_random_seed(4)
    layers = [L.Dense(6, "tanh"), L.Conv1D(3, 3, activation="tanh"), L.Dense(2)]
    model = keras.Sequential([keras.Input((5, 4)), *layers])
    memory = CurvatureMemory(layers="all", refresh_every=3)
    model.compile(ProxProp(inner, memory=memory), loss="mse", jit_compile=False)
    return model


random = np.random.default_rng(0)
x = random.normal(size=(43, 5, 4)).astype("float32")
y = random.normal(size=(43, 3, 2)).astype("float32")
# RowAdam counts the rows of all replicas.
for inner in (
    lambda: keras.optimizers.SGD(0.5, momentum=0.9),
    lambda: RowAdam(0.01, epsilon=1e-5),
):
    alone = compiled(inner())
    alone.run_eagerly = True
    with strategy.scope():
        together = compiled(inner())
    losses = [
        model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0).history["loss"]
        for model in (alone, together)
    ]
    assert_close_weights(weights_of(together), weights_of(alone), 1e-4)
    np.testing.assert_allclose(*losses, rtol=1e-4)
    kept = [
        [v.numpy() for v in model.optimizer.variables if "curvature" in v.path]
        for model in (alone, together)
    ]
    assert len(kept[0]) == len(kept[1]) == 2 * len(KEPT)
    for a, b in zip(*kept):
        assert_close(b, a, 1e-3)
print("equal")
"""


def test_two_replicas_make_the_step_of_the_global_batch():
    assert "equal" in python(SETUP + TWO_REPLICAS)


# The last batch has three rows: two for one replica, and one for the other.
WITHOUT_MEMORY = """
def compiled():
    keras.utils.set_random_seed(4)
    layers = [
        L.Embedding(9, 4),
        L.LayerNormalization(),
        L.Conv1D(6, 3),
        L.PReLU(shared_axes=[1]),
        L.LSTM(5, return_sequences=True),
        L.EinsumDense("abc,bcd->abd", (5, 3)),
        L.Dense(30, "tanh", kernel_regularizer="l2"),
        L.BatchNormalization(synchronized=True),
        L.Dense(2),
    ]
    model = keras.Sequential([keras.Input((7,)), *layers])
    sgd = keras.optimizers.SGD(0.5)
    model.compile(ProxProp(sgd, memory=None), loss="mse", jit_compile=False)
    return model


random = np.random.default_rng(0)
x = random.integers(0, 9, size=(19, 7))
y = random.normal(size=(19, 5, 2)).astype("float32")
alone = compiled()
alone.run_eagerly = True
with strategy.scope():
    together = compiled()
before = weights_of(alone)
for model in (alone, together):
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
assert_close_weights(weights_of(together), weights_of(alone), 1e-4)
assert not any(np.allclose(a, b) for a, b in zip(weights_of(alone), before))
print("equal")
"""


def test_two_replicas_without_memory_make_the_step_of_the_global_batch():
    assert "equal" in python(SETUP + WITHOUT_MEMORY)


SAID_ONCE = """
with strategy.scope():
    model = keras.Sequential([keras.Input((3,)), L.Dense(4), L.Dense(2)])
    model.compile(optimizer=ProxProp(), loss="mse", jit_compile=False)
model.fit(np.zeros((8, 3)), np.zeros((8, 2)), batch_size=4, epochs=2, verbose=2)
"""


def test_what_steps_implicitly_is_said_once_for_all_replicas():
    assert python(SETUP + SAID_ONCE).count("implicitly") == 1


# Both replicas see the same rows: each knows what the global batch's Gram matrix is.
MEAN = """
def compiled(cross_replica):
    keras.utils.set_random_seed(4)
    layers = [L.Dense(6, "tanh", kernel_regularizer="l2"), L.Conv1D(3, 3, activation="tanh")]
    model = keras.Sequential([keras.Input((5, 4)), *layers, L.Dense(2)])
    # The convolution has memory.
    proxprop = ProxProp(
        keras.optimizers.SGD(0.5),
        memory=CurvatureMemory(refresh_every=3),
        cross_replica=cross_replica,
    )
    model.compile(proxprop, loss="mse", jit_compile=False)
    return model


random = np.random.default_rng(0)
x = random.normal(size=(3, 4, 5, 4)).astype("float32")
y = random.normal(size=(3, 4, 3, 2)).astype("float32")
same = [np.concatenate([a, a], 1).reshape(24, *a.shape[2:]) for a in (x, y)]
other = [same[0] + random.normal(size=same[0].shape).astype("float32"), same[1]]
weights = []
for data in (same, other):
    alone = compiled("exact")
    alone.run_eagerly = True
    with strategy.scope():
        together = compiled("mean")
    for model in (alone, together):
        model.fit(*data, batch_size=8, epochs=3, shuffle=False, verbose=0)
    weights.append([weights_of(together), weights_of(alone)])
assert_close_weights(*weights[0], 1e-4)
# As long, and not the same.
for found, exact in zip(*weights[1]):
    assert not np.allclose(found, exact, rtol=1e-3)
    assert 0.5 < np.linalg.norm(found) / np.linalg.norm(exact) < 2
print("equal")
"""


def test_the_mean_of_replicas_is_exact_where_their_rows_are_alike():
    assert "equal" in python(SETUP + MEAN)


GIVEN = """
import ast
import sys

given = {sys.argv[1]: ast.literal_eval(sys.argv[2])}
x = np.random.default_rng(0).normal(size=(19, 5)).astype("float32")


def trained():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((5,)), L.Dense(4, "tanh"), L.Dense(2)])
    sgd = keras.optimizers.SGD(0.5, **given)
    proxprop = ProxProp(sgd, tau=0.7, memory=None, solver="cg")
    model.compile(proxprop, "mse", jit_compile=False)
    model.fit(x, np.tanh(x[:, :2]), batch_size=8, epochs=4, shuffle=False, verbose=0)
    return weights_of(model)


alone = trained()
with strategy.scope():
    together = trained()
assert_close_weights(together, alone, 1e-4)
print("equal")
"""


# Directions are longer than what they are clipped to.
@pytest.mark.parametrize(
    "argument, value", [("gradient_accumulation_steps", 2), ("global_clipnorm", 0.1)]
)
def test_two_replicas_accumulate_and_clip_directions_as_one_device_does(argument, value):
    assert "equal" in python(SETUP + GIVEN, argument, value)
