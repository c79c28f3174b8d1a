"""Over twenty steps replicas stay with the weights of one device."""

from processes import python

TRAINED = """
import keras, numpy as np, tensorflow as tf
from helpers import relative_error, weights_of
from logical_devices import mirrored
from keras_proxprop import CurvatureMemory, ProxProp

strategy = mirrored(3)
L = keras.layers


# One kernel is an encoder's, called twice, and a decoder's.
class Tied(keras.Layer):
    def build(self, shape):
        self.encoder = L.Dense(shape[-1], "tanh")
        self.encoder.build(shape)

    def call(self, x):
        kernel = keras.ops.transpose(self.encoder.kernel)
        return keras.ops.matmul(self.encoder(self.encoder(x)), kernel)


def trained(inner, memory):
    keras.utils.set_random_seed(4)
    layers = [
        L.Embedding(9, 4),
        L.LayerNormalization(),
        L.Reshape((4, 4, 4)),
        # With a bias the batch normalization behind it would do away with what it does.
        L.Conv2D(6, 3, use_bias=False, kernel_regularizer="l2"),
        L.BatchNormalization(synchronized=True),
        L.PReLU(shared_axes=[1, 2]),
        L.Flatten(),
        L.Dense(8, "tanh", kernel_regularizer="l2"),
        Tied(),
        L.Dense(2),
    ]
    model = keras.Sequential([keras.Input((16,)), *layers])
    model.compile(ProxProp(inner(), memory=memory), loss="mse", jit_compile=False)
    # Six steps of eight rows and one of seven: the last replica has fewer rows than the first.
    model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    assert model.optimizer.iterations.numpy() == 21
    return weights_of(model)


random = np.random.default_rng(0)
x = random.integers(0, 9, size=(55, 16))
y = random.normal(size=(55, 2))
inners = {"SGD": lambda: keras.optimizers.SGD(0.1), "default": lambda: None}
memories = {"SGD": None, "default": CurvatureMemory(layers="all", refresh_every=3)}
for name, memory in memories.items():
    alone = trained(inners[name], memory)
    with strategy.scope():
        together = trained(inners[name], memory)
    error = max(map(relative_error, together, alone))
    print(f"{error:.1e} {name}, memory {memory is not None}", flush=True)
"""


def test_replicas_stay_with_one_device_over_twenty_steps():
    said = python(TRAINED).splitlines()
    errors = {case: float(error) for error, case in (line.split(maxsplit=1) for line in said)}
    assert len(errors) == 2
    # Replicas add up in another order, in float32, and every step builds on the last: with SGD
    # that is 5e-6 after 21 steps. Rows that are left out or counted twice make a tenth.
    assert {case: e for case, e in errors.items() if not e < 1e-3} == {}
