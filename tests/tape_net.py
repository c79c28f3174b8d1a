"""A net for tapes, and how what two tapes return is compared."""

import keras
import numpy as np
import tensorflow as tf

TAU = 0.5


class Net:
    """A model, two batches, and the layer `hidden` that reads the batches themselves."""

    def __init__(self):
        keras.utils.set_random_seed(0)
        self.hidden = keras.layers.Dense(3, "tanh", name="hidden")
        self.last = keras.layers.Dense(2, "softplus", name="last")
        layers = [keras.Input((4,)), self.hidden, self.last]
        self.model = keras.Sequential(layers, name="net")
        random = np.random.default_rng(0)
        self.x, self.other = (tf.constant(random.normal(size=(n, 4))) for n in (7, 5))
        self.weights = self.model.trainable_variables
        for v in self.weights:
            v.assign(random.normal(size=v.shape))
        # TensorFlow's tape watches no variables of Keras's, and makes no zeros for them.
        self.native = [v.value for v in self.weights]
        self.unused = tf.Variable(tf.ones([2], tf.float64))

    def loss(self, x=None):
        return tf.reduce_mean(self.model(self.x if x is None else x) ** 2)


def as_list(value):
    return value if isinstance(value, list) else [value]


def array(x):
    return None if x is None else tf.convert_to_tensor(x).numpy()


def arrays(values):
    return [array(v) for v in values]


def assert_same(actual, expected, tolerance=0.0):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        if e is None or isinstance(e, str):
            assert a == e
        else:
            np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)
