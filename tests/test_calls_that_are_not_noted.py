"""Calls of layers whose tensors are not those of the step: they take the true gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, implicit_direction, steps

from keras_proxprop import ImplicitGradientTape
from keras_proxprop.plan import ELSEWHERE

layers, ops = keras.layers, keras.ops
TAU = 0.3
WRAPS = pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])


class Wrapped(keras.Model):
    """Calls a layer through what a function makes of it."""

    def __init__(self, wrap):
        super().__init__()
        self.first, self.last = layers.Dense(4, "tanh", name="own"), layers.Dense(2)
        self.wrap = wrap

    def build(self, shape):
        self.first.build((None, shape[-1]))
        self.last.build((None, 4))

    def call(self, x):
        return self.last(self.wrap(lambda x: self.first(x))(x))


def mapped(vectorized_map):
    """Returns a function whose layer is called for every item alone, in a loop that TensorFlow
    vectorizes."""
    return lambda layer: lambda x: vectorized_map(lambda item: layer(item[None])[0], x)


class Noisy(keras.Model):
    """Calls a layer with another kernel, which a weight of its own is a part of."""

    def __init__(self):
        super().__init__()
        self.first, self.last = layers.Dense(4, "tanh", name="own"), layers.Dense(2)

    def build(self, shape):
        self.first.build(shape)
        self.last.build((None, 4))
        self.rho = self.add_weight(shape=(shape[-1], 4), initializer="normal")

    def call(self, x):
        values = [self.first.kernel + self.rho, self.first.bias.value]
        return self.last(self.first.stateless_call(values, [], x)[0])


class Slopes(keras.Model):
    """Returns a net's derivative along its inputs, in forward mode."""

    def __init__(self):
        super().__init__()
        kinds = [layers.Dense(4, "tanh", name="own"), layers.LayerNormalization()]
        kinds += [layers.PReLU("normal"), layers.Reshape((4, 1)), layers.Conv1D(3, 2)]
        self.net = keras.Sequential([*kinds, layers.Flatten(), layers.Dense(2)])

    def build(self, shape):
        self.net.build(shape)

    def call(self, x):
        x = tf.convert_to_tensor(x)
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            z = self.net(x)
        return z + accumulator.jvp(z)


AGAIN = "called where tapes record nothing, as in keras.remat"
MODELS = {
    "ops": (lambda: Wrapped(mapped(ops.vectorized_map)), ELSEWHERE),
    "tf": (lambda: Wrapped(mapped(tf.vectorized_map)), ELSEWHERE),
    "other values": (Noisy, "called with other values than those of its weights"),
    "remat": (lambda: Wrapped(keras.remat), AGAIN),
    "recompute": (lambda: Wrapped(tf.recompute_grad), AGAIN),
    "forward mode": (Slopes, "called in a ForwardAccumulator"),
}


def data():
    return tf.constant(np.random.default_rng(0).normal(size=(8, 5)), "float32")


@pytest.mark.filterwarnings("ignore:No layer of model")
@WRAPS
@pytest.mark.parametrize("case", MODELS)
def test_they_take_the_true_gradient(case, wrap):
    keras.utils.set_random_seed(0)
    model, x = MODELS[case][0](), data()
    model(x)
    weights = model.trainable_variables

    def loss():
        return tf.reduce_sum(tf.sin(model(x)))

    @wrap
    def directions():
        with ImplicitGradientTape(model) as tape:
            value = loss()
        return tape.gradient(value, weights)

    with tf.GradientTape() as tape:
        value = loss()
    for direction, gradient in zip(directions(), tape.gradient(value, weights)):
        assert_close(direction, gradient, 1e-4)


@pytest.mark.parametrize("case", MODELS)
def test_summary_says_why(case):
    make, why = MODELS[case]
    model = make()
    model(data())
    assert steps(model)["own"] == f"explicit: {why}"


@WRAPS
def test_a_derivative_in_forward_mode_beside_a_call_is_preconditioned_with_it(wrap):
    keras.utils.set_random_seed(0)
    hidden, x = layers.Dense(4, "tanh"), data()
    model = keras.Sequential([keras.Input((5,)), hidden, layers.Dense(2)])

    def loss():
        value = tf.reduce_sum(tf.sin(model(x)))
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            z = model(x)
        return value + tf.reduce_sum(accumulator.jvp(z) ** 2)

    @wrap
    def directions():
        with ImplicitGradientTape(model, TAU) as tape:
            value = loss()
        return tape.gradient(value, model.trainable_variables)

    with tf.GradientTape() as tape:
        value = loss()
    gradients = tape.gradient(value, model.trainable_variables)
    expected = implicit_direction([x], gradients[:2], TAU) + gradients[2:]
    for direction, e in zip(directions(), expected):
        assert_close(direction, e, 1e-4)


def test_an_accumulator_or_a_loop_around_the_tape_changes_nothing():
    keras.utils.set_random_seed(0)
    hidden, x = layers.Dense(4, "tanh"), data()
    model = keras.Sequential([keras.Input((5,)), hidden, layers.Dense(2)])

    def direction(x):
        with ImplicitGradientTape(model, TAU) as tape:
            loss = tf.reduce_sum(model(x) ** 2)
        return tape.gradient(loss, hidden.kernel)

    expected = direction(x)
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)):
        assert_close(direction(x), expected, 1e-5)
    mapped = tf.function(lambda x: tf.vectorized_map(direction, x))(tf.stack([x, 2 * x]))
    assert_close(mapped, [expected, direction(2 * x)], 1e-4)


def test_values_of_other_layers_are_none_of_a_layers_own():
    first, last = layers.Dense(4, "tanh", name="own"), layers.Dense(2)
    model = keras.Sequential([keras.Input((5,)), first, last])
    values = [(v, v.value * 2) for v in last.trainable_variables]

    def direction():
        with ImplicitGradientTape(model, TAU) as tape:
            with keras.StatelessScope(values):
                loss = tf.reduce_sum(tf.sin(model(x)))
        return tape.gradient(loss, first.trainable_variables)

    x = data()
    with tf.GradientTape() as tape, keras.StatelessScope(values):
        loss = tf.reduce_sum(tf.sin(model(x)))
    gradients = tape.gradient(loss, first.trainable_variables)
    for d, e in zip(direction(), implicit_direction([x], gradients, TAU)):
        assert_close(d, e, 1e-4)
