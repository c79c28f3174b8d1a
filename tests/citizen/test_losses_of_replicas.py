"""Under a strategy, every replica's loss has what its own layers add to it."""

import pytest
from processes import python

SETUP = """
import keras, numpy as np
from helpers import assert_close_weights, weights_of
from logical_devices import mirrored
from keras_proxprop import ProxProp

strategy = mirrored(2)
L = keras.layers
random = np.random.default_rng(0)
# The last batch has three rows: two for one replica, and one for the other.
x = random.normal(size=(19, 4)).astype("float32")
y = random.normal(size=(19, 1)).astype("float32")


class Bounded(L.Layer):
    def call(self, x):
        self.add_loss(keras.ops.mean(x**2))
        return x


class Noting(keras.Model):
    # Its loss reads what its call left in an attribute.
    def call(self, x):
        self.seen = super().call(x)
        return self.seen

    def compute_loss(self, x=None, y=None, y_pred=None, *arguments, **named):
        return super().compute_loss(x, y, self.seen, *arguments, **named)


def trained(model, *layers):
    keras.utils.set_random_seed(4)
    inputs = outputs = keras.Input((4,))
    for make in layers:
        outputs = make()(outputs)
    model = model(inputs, outputs)
    model.compile(ProxProp(keras.optimizers.SGD(0.1)), loss="mse", jit_compile=False)
    history = model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0).history
    return weights_of(model), history["loss"]


def check(*arguments):
    alone, expected = trained(*arguments)
    with strategy.scope():
        together, losses = trained(*arguments)
    assert_close_weights(together, alone, 1e-4)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    print("equal")


def hidden(**arguments):
    return lambda: L.Dense(6, "tanh", **arguments)
"""
CASES = {
    "regularizer": "keras.Model, hidden(activity_regularizer='l2'), lambda: L.Dense(1)",
    "add_loss": "keras.Model, hidden(), Bounded, lambda: L.Dense(1)",
    "attribute": "Noting, hidden(), lambda: L.Dense(1)",
}


@pytest.mark.parametrize("case", CASES)
def test_a_loss_that_is_left_in_layers_is_that_of_the_replica(case):
    assert "equal" in python(SETUP + f"check({CASES[case]})\n")
