"""Replicas whose refreshes take turns train as one device does."""

import ast

from processes import python

TRAINED = """
import keras, numpy as np
from helpers import relative_error
from logical_devices import mirrored
from keras_proxprop import CurvatureMemory, ProxProp, machine

# As if the refresh of each layer were a lot of work.
object.__setattr__(machine.CPU, "at_once", 1e-9)
strategy = mirrored(2)
L = keras.layers
random = np.random.default_rng(0)
x = random.normal(size=(168, 6, 6, 2)).astype("float32")
y = random.normal(size=(168, 2)).astype("float32")


def trained():
    keras.utils.set_random_seed(4)
    layers = [L.Conv2D(4, 3, activation="tanh"), L.Conv2D(3, 2, activation="tanh")]
    layers += [L.Flatten(), L.Dense(6, "tanh"), L.Dense(2)]
    model = keras.Sequential([keras.Input((6, 6, 2)), *layers])
    memory = CurvatureMemory(layers="all", refresh_every=5)
    model.compile(ProxProp(keras.optimizers.SGD(0.5), memory=memory), "mse", jit_compile=False)
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    states = model.optimizer._curvatures._states.values()
    return model.get_weights(), [int(state.refreshed.numpy()) for state in states]


alone, refreshed = trained()
with strategy.scope():
    together, likewise = trained()
print((float(max(map(relative_error, together, alone))), refreshed, likewise))
"""


def test_replicas_take_the_turns_of_one_device():
    error, refreshed, likewise = ast.literal_eval(python(TRAINED))
    assert likewise == refreshed and len(refreshed) == 3
    # Not all in one step.
    assert len(set(refreshed)) > 1
    assert error < 1e-3
