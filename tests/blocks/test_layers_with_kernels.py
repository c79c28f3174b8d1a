"""Layers with several kernels and activations between, by `register_block` in one line."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close
from keras import layers, ops

import keras_proxprop
from keras_proxprop import ImplicitGradientTape, ProxProp, blocks
from keras_proxprop.reports.summary import layer_reports

TAU, EXPERTS, WIDTH, INNER = 0.5, 3, 4, 5


class Experts(layers.Layer):
    """What KerasHub's Mixtral has: a gate, a kernel beside it, and one after both."""

    def build(self, shape):
        self.gate = self.add_weight(shape=(EXPERTS, WIDTH, INNER), name="gate")
        self.up = self.add_weight(shape=(EXPERTS, WIDTH, INNER), name="up")
        self.down = self.add_weight(shape=(EXPERTS, INNER, WIDTH), name="down")

    def call(self, x):
        gate = ops.silu(ops.einsum("th,ehm->etm", x, self.gate))
        hidden = ops.einsum("th,ehm->etm", x, self.up) * gate
        return ops.einsum("eti,eih->eth", hidden, self.down)

    def reference(self, x, d):
        """The directions in float64, from the gradients `d` by weight."""
        gate, up = (np.einsum("th,ehm->etm", x, w) for w in (self.gate, self.up))
        hidden = gate / (1 + np.exp(-gate)) * up
        found = {"gate": solved(x, d["gate"]), "up": solved(x, d["up"])}
        return found | {"down": np.stack([*map(solved, hidden, d["down"])])}


class BiasedExperts(layers.Layer):
    """What KerasHub's GPT-OSS has: gate and up in one kernel, and biases."""

    def build(self, shape):
        self.both = self.add_weight(shape=(EXPERTS, WIDTH, 2 * INNER), name="both")
        self.both_bias = self.add_weight(shape=(EXPERTS, 2 * INNER), name="both_bias")
        self.down = self.add_weight(shape=(EXPERTS, INNER, WIDTH), name="down")

    def _hidden(self, x):
        both = ops.einsum("th,ehm->etm", x, self.both) + self.both_bias[:, None, :]
        return both[..., ::2] * ops.sigmoid(both[..., 1::2])

    def call(self, x):
        return ops.matmul(self._hidden(x), self.down)

    def reference(self, x, d):
        hidden = np.asarray(self._hidden(x))
        found = {"both": solved(x, d["both"]), "both_bias": d["both_bias"]}
        return found | {"down": np.stack([*map(solved, hidden, d["down"])])}


class FeedForward(layers.Layer):
    """Two kernels on a sequence, and a gain between them that is no kernel."""

    def build(self, shape):
        self.first = self.add_weight(shape=(WIDTH, INNER), name="first")
        self.gain = self.add_weight(shape=(INNER,), name="gain")
        # As PyTorch keeps kernels.
        self.second = self.add_weight(shape=(WIDTH, INNER), name="second")

    def _hidden(self, x):
        return self.gain * ops.gelu(ops.matmul(x, self.first))

    def call(self, x):
        x = ops.reshape(x, (-1, 2, WIDTH))
        x = x + ops.einsum("oi,...i->...o", self.second, self._hidden(x))
        return ops.reshape(x, (1, -1, WIDTH))

    def reference(self, x, d):
        hidden = np.reshape(self._hidden(x), [-1, INNER])
        second = solved(hidden, d["second"].T).T
        return {"first": solved(x, d["first"]), "gain": d["gain"], "second": second}


class Scales(layers.Layer):
    """A kernel whose product has the axes of the inputs."""

    def build(self, shape):
        self.scales = self.add_weight(shape=(2, WIDTH // 2), name="scales")

    def call(self, x):
        x = ops.reshape(x, (-1, 2, WIDTH // 2))
        z = ops.einsum("tgh,gh->tgh", x, self.scales)
        return ops.reshape(z, (1, -1, WIDTH))

    def reference(self, x, d):
        curvature = np.sum(x**2, axis=0).reshape(2, -1)
        return {"scales": d["scales"] / (curvature + 1 / TAU)}


def solved(a, gradient):
    """Returns `(AᵀA + I/τ)⁻¹` times a gradient whose axis before the last is of features."""
    gram = a.T @ a + np.eye(a.shape[1]) / TAU
    return np.linalg.solve(gram, gradient)


@pytest.fixture(params=[Experts, BiasedExperts, FeedForward, Scales])
def registered(request):
    keras_proxprop.register_block(request.param, blocks.KernelsBlock)
    yield request.param
    del blocks._BLOCKS[request.param]


def made(layer_class):
    """A model with such a layer, and items that are rows of it."""
    keras.utils.set_random_seed(0)
    layer, inputs = layer_class(), keras.Input((WIDTH,))
    x = ops.transpose(layer(inputs), (1, 0, 2))
    outputs = layers.Dense(2)(layers.Flatten()(ops.tanh(x)))
    for weight in layer.weights:
        weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    return keras.Model(inputs, outputs), layer


X = np.random.default_rng(0).normal(size=(8, WIDTH))


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_every_kernel_has_the_direction_of_its_own_problem(float64, registered, wrap):
    model, layer = made(registered)
    names = [w.name for w in layer.weights]

    def loss():
        return tf.reduce_sum(model(X) ** 2) + tf.reduce_sum(layer.weights[0] ** 3)

    @wrap
    def directions():
        with ImplicitGradientTape(model, tau=TAU) as tape:
            value = loss()
        return tape.gradient(value, layer.weights)

    with tf.GradientTape() as tape:
        value = loss()
    gradients = tape.gradient(value, [w.value for w in layer.weights])
    d = {name: np.array(g) for name, g in zip(names, gradients)}
    expected = layer.reference(X, d)
    for name, found in zip(names, directions()):
        assert_close(found, expected[name], 1e-10)


def test_summary_shows_a_problem_for_every_kernel_and_what_is_left(registered):
    model, layer = made(registered)
    own = [r for r in layer_reports(model, 8) if r.name == layer.name]
    implicit = sum(r.weights for r in own if r.step == "implicit")
    left = [r for r in own if r.step != "implicit"]
    kernels = [w for w in layer.weights if not w.name.endswith(("bias", "gain"))]
    assert implicit == sum(int(np.prod(w.shape)) for w in kernels)
    assert [r.step for r in left] == ["explicit: outside of the layer's linear map"] * (
        len(kernels) < len(layer.weights)
    )


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_it_trains_and_computes_what_it_computes_by_itself(registered, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model, layer = made(registered)
    finally:
        keras.config.set_dtype_policy("float32")
    x = X.astype("float32")
    before, alone = [w.numpy() for w in layer.weights], model(x)
    with ImplicitGradientTape(model) as tape:
        recorded = model(x)
    assert_close(recorded, alone, 1e-6 if policy == "float32" else 0.02)
    del tape
    model.compile(ProxProp(), loss="mse", jit_compile=False)
    history = model.fit(x, np.zeros([len(recorded), 2]), epochs=5, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert all(np.any(w.numpy() != old) for w, old in zip(layer.weights, before))


class Unusual(layers.Layer):
    """Products that are no problem in a kernel alone."""

    def build(self, shape):
        names = "cast summed left right twice named row unknown listed".split()
        for name in names:
            setattr(self, name, self.add_weight(shape=(WIDTH, WIDTH), name=name))

    def call(self, x):
        z = ops.matmul(x, ops.cast(self.cast, x.dtype))
        z += ops.einsum("bi,ij->bi", x, self.summed)
        z += ops.matmul(x, ops.matmul(self.left, self.right))
        z += ops.matmul(x, self.twice) + ops.einsum("bi,ji->bj", x, self.twice)
        z += ops.einsum("bi,ij", x, self.named) + ops.matmul(x[0], self.row)
        of_unknown_rank = tf.numpy_function(lambda x: x, [x], x.dtype)
        z += tf.ensure_shape(ops.matmul(of_unknown_rank, self.unknown), z.shape)
        return ops.tanh(z) + ops.matmul([[1.0] * WIDTH], self.listed)


def test_products_of_other_kinds_step_explicitly():
    keras_proxprop.register_block(Unusual, blocks.KernelsBlock)
    try:
        inputs = keras.Input((WIDTH,))
        layer = Unusual()
        model = keras.Model(inputs, layers.Dense(2)(layer(inputs)))
        steps = {(r.weights, r.step) for r in layer_reports(model, 8) if r.name == layer.name}

        @tf.function
        def both():
            with ImplicitGradientTape(model) as tape, tf.GradientTape() as plain:
                loss = tf.reduce_sum(model(X))
            values = [w.value for w in layer.weights]
            return tape.gradient(loss, values), plain.gradient(loss, values)

        directions, gradients = both()
    finally:
        del blocks._BLOCKS[Unusual]
    assert all(step.startswith("explicit") for _, step in steps)
    for direction, gradient in zip(directions, gradients):
        assert_close(direction, gradient, 1e-5)


def test_nothing_of_keras_stays_exchanged(registered):
    from keras.src.backend import numpy as backend

    before = backend.einsum, backend.matmul
    model, _ = made(registered)
    with ImplicitGradientTape(model):
        model(X)
    assert (backend.einsum, backend.matmul) == before
