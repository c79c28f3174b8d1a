"""Replicas choose which layers have memory for the batch of all."""

import ast

from processes import python

TRAINED = """
import keras, numpy as np, tensorflow as tf
from helpers import relative_error
from logical_devices import mirrored
from keras_proxprop import ProxProp
from keras_proxprop.memory.averaged_gram import KEPT

strategy = mirrored(2)
random = np.random.default_rng(0)
x = random.normal(size=(1280, 40)).astype("float32")
y = random.normal(size=(1280, 1)).astype("float32")
batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(640)


def trained(data, **arguments):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(200, activation="tanh") for _ in range(2)]
    model = keras.Sequential([keras.Input((40,)), *layers, keras.layers.Dense(1)])
    model.compile(ProxProp(keras.optimizers.SGD(0.1), **arguments), "mse", jit_compile=False)
    model.fit(*data, batch_size=640 if len(data) > 1 else None, shuffle=False, verbose=0)
    return model.get_weights(), len(model.optimizer._curvatures.variables) // len(KEPT)


alone, number = trained((x, y))
found = [number]
for data in (x, y), (batches,):
    with strategy.scope():
        together, number = trained(data)
    found += [number, float(max(map(relative_error, together, alone)))]
with strategy.scope():
    found.append(trained((x, y), cross_replica="mean")[1])
print(found)
"""


def test_replicas_choose_for_the_global_batch():
    alone, arrays, error, dataset, another_error, apart = ast.literal_eval(python(TRAINED))
    assert (alone, arrays, dataset) == (2, 2, 2)
    assert max(error, another_error) < 1e-4
    # Replicas that are apart have only their own rows.
    assert apart == 1
