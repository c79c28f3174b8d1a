"""Weights that the loss reaches by more ways than one layer's product, or that must not move.

A part of the gradient that does not pass through the layer's own product is preconditioned
with the rest; a layer that cannot step implicitly takes the gradient as it is.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, implicit_direction
from weight_cases import TAU, check, data

from keras_proxprop import ImplicitGradientTape, ProxProp, solvers
from keras_proxprop.plan import TIED
from keras_proxprop.reports.summary import layer_reports

layers, ops = keras.layers, keras.ops
SOLVERS = [solvers.Exact("primal"), solvers.Exact("dual"), solvers.ConjugateGradient(30)]


@pytest.mark.parametrize("solver", SOLVERS, ids=["primal", "dual", "cg"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_regularizers_are_preconditioned_with_the_rest(solver, bias):
    hidden = layers.Dense(6, "tanh", use_bias=bias, kernel_regularizer="l2")
    model = keras.Sequential([hidden, layers.Dense(3, kernel_regularizer="l1")])
    x = data(8, 5)
    check(model, x, {hidden: [x]}, solver=solver)


class Penalized(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.last = layers.Dense(6, "tanh"), layers.Dense(3)

    def call(self, x):
        z = self.last(self.hidden(x))
        self.add_loss(ops.sum(ops.exp(self.hidden.kernel)) * 0.1)
        self.add_loss(ops.sum(self.hidden.bias * ops.arange(6.0)))
        return z


@pytest.mark.parametrize("solver", SOLVERS, ids=["primal", "dual", "cg"])
def test_a_kernel_in_add_loss_is_preconditioned_with_the_rest(solver):
    model, x = Penalized(), data(8, 5)
    model(x)
    check(model, x, {model.hidden: [x]}, solver=solver)


def test_the_losses_of_an_eager_call_can_be_read_after_its_directions_were_found():
    # The final layers are found by a call in a graph that never runs.
    model, x = Penalized(), data(8, 5)
    with ImplicitGradientTape(model) as tape:
        loss = tf.reduce_mean(model(x) ** 2) + tf.add_n(model.losses)
    tape.gradient(loss, model.trainable_variables)
    assert [np.isfinite(float(part)) for part in model.losses] == [True, True]


def test_a_kernel_in_a_loss_outside_of_the_model_is_preconditioned_with_the_rest():
    hidden = layers.Dense(6, "tanh")
    model, x = keras.Sequential([hidden, layers.Dense(3)]), data(8, 5)
    check(model, x, {hidden: [x]}, extra=lambda: tf.reduce_sum(hidden.kernel**3))


def test_a_kernel_read_by_its_rows_has_a_sparse_gradient_that_is_not_lost():
    hidden = layers.Dense(6, "tanh")
    model, x = keras.Sequential([hidden, layers.Dense(3)]), data(8, 5)
    check(
        model,
        x,
        {hidden: [x]},
        extra=lambda: tf.reduce_sum(tf.gather(hidden.kernel.value, [1, 3, 3]) ** 2),
    )


class TiedAutoencoder(keras.Model):
    """Decodes with the transpose of the encoder's kernel, in a product that is not a layer."""

    def __init__(self):
        super().__init__()
        self.encode, self.last = layers.Dense(4, "tanh"), layers.Dense(5)

    def call(self, x):
        code = self.encode(x)
        return self.last(ops.matmul(code, ops.transpose(self.encode.kernel)))


@pytest.mark.filterwarnings("ignore:No layer of model")
@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_a_tied_transpose_steps_explicitly(wrap):
    # The problem of one of its uses would be far from that of both.
    model, x = TiedAutoencoder(), data(8, 5)
    check(model, x, {}, wrap=wrap)
    reports = {r.name: r.step for r in layer_reports(model, 8)}
    assert reports[model.encode.name] == f"explicit: {TIED}"


class Tied(layers.Dense):
    """A Dense layer with the kernel of another one."""

    def __init__(self, other):
        super().__init__(other.units, other.activation, use_bias=False)
        self.other = other

    def build(self, input_shape):
        self._kernel = self.other._kernel
        self.bias = None


def test_two_layers_with_one_kernel_step_explicitly():
    first, own, last = layers.Dense(5, "tanh"), layers.Dense(5, "relu"), layers.Dense(2)
    model, x = keras.Sequential([first, Tied(first), own, last]), data(8, 5)
    model(x)
    check(model, x, {own: [model.layers[1](first(x))]})


@pytest.mark.filterwarnings("ignore:No layer of model")
def test_a_tied_model_trains():
    model, x = TiedAutoencoder(), data(64, 5)
    model.compile(optimizer=ProxProp("adam", 0.01), loss="mse", jit_compile=False)
    loss = model.fit(x, x, batch_size=16, epochs=20, verbose=0).history["loss"]
    assert loss[-1] < 0.6 * loss[0]


def test_dense_on_rank_4_inputs_has_a_row_per_position():
    hidden = layers.Dense(6, "tanh")
    model, x = keras.Sequential([hidden, layers.Dense(3)]), data(2, 3, 2, 5)
    check(model, x, {hidden: [x]})


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_an_embedding_has_a_row_of_one_per_token(mode):
    embedding, hidden = layers.Embedding(9, 5), layers.Dense(6, "tanh")
    model = keras.Sequential([embedding, hidden, layers.Flatten(), layers.Dense(3)])
    x = np.random.default_rng(0).integers(7, size=(8, 4))
    model(x)
    check(model, x, {embedding: [np.eye(9)[x]], hidden: [embedding(x)]})
    before = embedding.embeddings.numpy()
    model.compile(optimizer=ProxProp("sgd", 0.1), loss="mse", run_eagerly=mode == "eager")
    model.fit(x, data(8, 3), verbose=0)
    moved = (embedding.embeddings.numpy() != before).any(axis=1)
    np.testing.assert_array_equal(moved, np.isin(np.arange(9), x))


def test_a_layer_that_two_models_share_steps_in_either():
    shared = layers.Dense(6, "tanh")
    one = keras.Sequential([shared, layers.Dense(2)])
    other = keras.Sequential([layers.Dense(5, "tanh", name="own"), shared, layers.Dense(3)])
    x = data(8, 5)
    check(one, x, {shared: [x]})
    other(x)
    own = other.layers[0]
    check(other, x, {own: [x], shared: [own(x)]})
    for model, units in ((one, 2), (other, 3), (one, 2)):
        model.compile(optimizer=ProxProp(), loss="mse", jit_compile=False)
        model.fit(x, data(8, units), verbose=0)


def test_weights_that_the_loss_does_not_reach_have_no_direction():
    first, unused, last = layers.Dense(6, "tanh"), layers.Dense(6), layers.Dense(2)

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.layers_ = [first, unused, last]

        def call(self, x):
            h = first(x)
            unused(h)
            return last(h)

    model, x = Model(), data(8, 5)
    with ImplicitGradientTape(model) as tape:
        loss = tf.reduce_mean(model(x) ** 2)
    directions = tape.gradient(loss, model.trainable_variables)
    assert [d is None for d in directions] == [False, False, True, True, False, False]


class Mapped(layers.Layer):
    """A layer whose own layer runs in a loop, which is a graph of its own."""

    def build(self, input_shape):
        self.inner = layers.Dense(6, "tanh")
        self.inner.build(input_shape[1:])

    def call(self, x):
        return tf.map_fn(self.inner, x)


def test_a_layer_in_a_loop_takes_its_gradient():
    hidden, last = layers.Dense(5, "tanh"), layers.Dense(2)
    model, x = keras.Sequential([hidden, Mapped(), last]), data(4, 3, 4)
    check(model, x, {hidden: [x]}, wrap=tf.function)


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_a_gradient_penalty_reaches_the_kernels_through_the_gradient_in_it(wrap):
    hidden = layers.Dense(6, "tanh")
    model, x = keras.Sequential([hidden, layers.Dense(1)]), tf.constant(data(8, 5))
    model(x)
    variables = model.trainable_variables

    def loss():
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = tf.reduce_sum(model(x) ** 2)
        return y + tf.reduce_sum(inner.gradient(y, x) ** 2)

    @wrap
    def directions():
        with ImplicitGradientTape(model, tau=TAU) as tape:
            value = loss()
        return tape.gradient(value, variables)

    with tf.GradientTape() as tape:
        value = loss()
    gradients = tape.gradient(value, variables)
    expected = implicit_direction([x], gradients[:2], TAU) + gradients[2:]
    for direction, e in zip(directions(), expected):
        assert_close(direction, e, 2e-5)
