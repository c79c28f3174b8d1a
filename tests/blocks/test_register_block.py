"""`register_block`: implicit steps for layers that users write."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close
from keras import layers, ops

import keras_proxprop
from keras_proxprop import ImplicitGradientTape, ProxProp, blocks
from keras_proxprop.reports.summary import layer_reports
from keras_proxprop.rows.matrix import MatrixRows

TAU = 0.5


class Bilinear(layers.Layer):
    """`z_o = xᵀ W_o x + b_o`: linear in its weights, not in its inputs."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], shape[-1], self.units), name="w")
        self.b = self.add_weight(shape=(self.units,), name="b")

    def call(self, x):
        return ops.einsum("bi,bj,ijo->bo", x, x, self.w) + self.b


class BilinearBlock(blocks.Block):
    """The same, said in full: the rows are the products of two inputs."""

    kernel_name = "w"

    @property
    def weights(self):
        return [self.layer.w, self.layer.b]

    def values(self):
        return [self.layer.w, self.layer.b]

    def linear(self, x, w, b):
        return ops.einsum("bi,bj,ijo->bo", x, x, w) + b

    def finish(self, z):
        return z

    def rows(self, x, bias):
        return MatrixRows(
            tf.reshape(x[:, :, None] * x[:, None, :], [-1, x.shape[1] ** 2]), bias
        )


@pytest.fixture(params=["generic", "own"])
def registered(request):
    """`Bilinear` with a block by automatic differentiation, or with one of its own."""
    block = {"generic": (), "own": (BilinearBlock,)}[request.param]
    keras_proxprop.register_block(Bilinear, *block)
    yield request.param
    del blocks._BLOCKS[Bilinear]


def model_and_data():
    random = np.random.default_rng(0)
    hidden = Bilinear(3)
    model = keras.Sequential([keras.Input((4,)), hidden, layers.Activation("tanh")])
    model.add(layers.Dense(2))
    hidden.b.assign(random.normal(size=3))
    return model, hidden, tf.constant(random.normal(size=(6, 4)))


@pytest.mark.parametrize("solver", ["exact", keras_proxprop.solvers.ConjugateGradient(10)])
@pytest.mark.parametrize("wrap", [lambda f: f, tf.function, tf.function(jit_compile=True)])
def test_a_layer_of_the_users_own_takes_an_implicit_step(float64, registered, solver, wrap):
    model, hidden, x = model_and_data()

    def loss():
        return tf.reduce_sum(model(x) ** 2) + tf.reduce_sum(hidden.w**2)

    with tf.GradientTape() as tape:
        value = loss()
    w, b = tape.gradient(value, [hidden.w.value, hidden.b.value])
    gradient = np.concatenate([np.reshape(w, [16, 3]), [b]])
    products = np.einsum("bi,bj->bij", x, x).reshape(6, 16)
    a = np.column_stack([products, np.ones(6)])
    expected = np.linalg.solve(a.T @ a + np.eye(17) / TAU, gradient)

    @wrap
    def directions():
        with ImplicitGradientTape(model, tau=TAU, solver=solver) as tape:
            value = loss()
        return tape.gradient(value, [hidden.w, hidden.b])

    w, b = directions()
    assert_close(np.concatenate([np.reshape(w, [16, 3]), [b]]), expected, 1e-8)


@pytest.mark.parametrize("form", ["primal", "dual"])
def test_a_layer_that_is_called_twice_is_one_problem(float64, registered, form):
    class Twice(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = hidden

        def call(self, x):
            return hidden(x) + hidden(2 * x)

    hidden, x = Bilinear(3), tf.constant(np.random.default_rng(0).normal(size=(6, 4)))
    model = Twice()
    model(x)
    solver = keras_proxprop.solvers.Exact(form)
    with ImplicitGradientTape(model, TAU, solver, final_layer="implicit") as tape:
        loss = tf.reduce_sum(tf.sin(model(x)))
    w, b = tape.gradient(loss, [hidden.w, hidden.b])
    d = np.cos(model(x))
    products = np.einsum("bi,bj->bij", x, x).reshape(6, 16)
    a = np.column_stack([np.concatenate([products, 4 * products]), np.ones(12)])
    expected = np.linalg.solve(a.T @ a + np.eye(17) / TAU, a.T @ np.concatenate([d, d]))
    assert_close(np.concatenate([np.reshape(w, [16, 3]), [b]]), expected, 1e-8)


def test_summary_and_fit_know_it(registered):
    model, hidden, x = model_and_data()
    report = {r.name: r for r in layer_reports(model, 6)}[hidden.name]
    assert report.step == "implicit"
    # Without knowing of columns, all weights are one.
    assert report.features == {"generic": 51, "own": 17}[registered]
    before = hidden.w.numpy()
    model.compile(ProxProp("sgd", 0.1), loss="mse")
    model.fit(x, np.zeros([6, 2]), verbose=0)
    assert np.isfinite(hidden.w.numpy()).all() and (hidden.w.numpy() != before).all()


def test_a_subclass_with_a_call_of_its_own_is_not_meant(registered):
    class Twice(Bilinear):
        def call(self, x):
            return ops.tanh(super().call(x))

    layer = Twice(2)
    layer.build((None, 3))
    assert blocks.find_block(layer) == (None, "Twice overrides call()")


@pytest.mark.parametrize("arguments", [(3,), (Bilinear, 3), (keras.Model, Bilinear), (int,)])
def test_what_is_no_layer_or_no_block_is_refused(arguments):
    with pytest.raises(TypeError, match="Argument `"):
        keras_proxprop.register_block(*arguments)
