"""Training in float16 on several replicas, with the `LossScaleOptimizer` that Keras makes."""

import ast

import pytest
from processes import python

TRAINED = """
import sys
import keras, numpy as np, tensorflow as tf
from helpers import relative_error, weights_of
from logical_devices import mirrored
from keras_proxprop import CurvatureMemory, ProxProp

strategy = mirrored(2)
L = keras.layers
keras.config.set_dtype_policy("mixed_float16")
MEMORY = CurvatureMemory(layers="all", refresh_every=3)
NEW = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "none": lambda: ProxProp("adam", 0.01, memory=None),
    "memory": lambda: ProxProp("adam", 0.01, memory=MEMORY),
    "default": lambda: ProxProp(memory=MEMORY),
}[sys.argv[1]]
# The default's steps are longer for more rows, and its last batch does not divide evenly.
rows = 23 if sys.argv[1] == "default" else 24
x = np.random.default_rng(0).normal(size=(rows, 5)).astype("float32")
y = np.tanh(x[:, :2])


def trained(x, epochs, **mode):
    keras.utils.set_random_seed(1)
    layers = [L.Dense(6, "tanh"), L.Dense(2, dtype="float32")]
    model = keras.Sequential([keras.Input((5,)), *layers])
    model.compile(NEW(), "mse", **(mode or {"jit_compile": False}))
    loss = model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    optimizer = model.optimizer
    assert type(optimizer).__name__ == "LossScaleOptimizer"
    assert {v.dtype for v in model.variables} == {"float32"}
    counts = [float(v.numpy()) for v in (optimizer.dynamic_scale, optimizer.iterations)]
    return loss.history["loss"], weights_of(model), *counts


alone = trained(x, 4, run_eagerly=True)
with strategy.scope():
    together = trained(x, 4)
error = float(max(map(relative_error, together[1], alone[1])))
found = {"error": error, "losses": together[0], "good": list(together[2:]), "bad": {}}
# The second batch overflows on one of the replicas.
for name, rows in {"first": slice(8, 12), "second": slice(12, 16)}.items():
    bad = x.copy()
    bad[rows] = np.inf
    with strategy.scope():
        _, weights, *counts = trained(bad, 1)
    finite = all(np.isfinite(w).all() for w in weights)
    found["bad"][name] = [finite, *counts]
print(found)
"""
SCALE = 2.0**15


@pytest.mark.parametrize("name", ["adam", "none", "memory", "default"])
def test_replicas_scale_losses_together(name):
    found = ast.literal_eval(python(TRAINED, name).replace("nan", "None"))
    assert found["losses"][-1] < 0.7 * found["losses"][0]
    assert found["good"] == [SCALE, 12]
    # A float16 has eleven bits; parts of a sum are rounded where its replica makes them.
    assert found["error"] < 1e-2
    halved = [True, SCALE / 2, 2]
    assert found["bad"]["first"] == halved
    # Keras asks the first replica only whether gradients are finite. Adam steps with those of
    # the second, and its weights are lost; directions tell each other.
    if name == "adam":
        assert found["bad"]["second"][0] is False
    else:
        assert found["bad"]["second"] == halved
