"""Groups, one or as many as there are channels: the step of each group by itself."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, in_turns, weights_of
from keras import layers

from keras_proxprop import CurvatureMemory, ImplicitGradientTape, ProxProp, solvers
from keras_proxprop.reports.summary import layer_reports

TAU = 0.3

# The layer, its inputs' shape, and into how many groups its columns fall.
ONE_GROUP = {
    "depthwise-1d": (lambda: layers.DepthwiseConv1D(3, padding="same"), (3, 6, 1), 1),
    "depthwise-2d": (lambda: layers.DepthwiseConv2D(2, depth_multiplier=2), (3, 4, 5, 1), 1),
    "depthwise-strides": (lambda: layers.DepthwiseConv2D(2, strides=2), (3, 4, 5, 1), 1),
    "depthwise-no-bias": (lambda: layers.DepthwiseConv2D(2, use_bias=False), (3, 4, 5, 1), 1),
    "einsum": (
        lambda: layers.EinsumDense("bgi,gio->bgo", (1, 3), bias_axes="go"),
        (5, 1, 4),
        1,
    ),
    "einsum-two-group-axes": (
        lambda: layers.EinsumDense("bghi,ghio->bgho", (1, 1, 3), bias_axes="gho"),
        (5, 1, 1, 4),
        1,
    ),
}
AS_MANY_AS_CHANNELS = {
    "3d-same-strides": (
        lambda: layers.Conv3D(2, 2, strides=(2, 1, 2), padding="same", groups=2),
        (2, 3, 3, 4, 2),
        2,
    ),
    "causal": (lambda: layers.Conv1D(4, 2, padding="causal", groups=2), (3, 6, 2), 2),
    "causal-strides": (
        lambda: layers.Conv1D(4, 3, strides=2, padding="causal", groups=2),
        (3, 7, 2),
        2,
    ),
    "unequal-strides": (
        lambda: layers.Conv2D(4, 2, strides=(2, 1), groups=2),
        (3, 5, 5, 2),
        2,
    ),
    "unequal-strides-same": (
        lambda: layers.Conv2D(4, 3, strides=(1, 2), padding="same", groups=2),
        (3, 5, 5, 2),
        2,
    ),
    "unequal-dilation": (
        lambda: layers.Conv2D(2, 2, dilation_rate=(2, 1), groups=2),
        (3, 5, 5, 2),
        2,
    ),
}
CASES = {**ONE_GROUP, **AS_MANY_AS_CHANNELS}
# A way through each: XLA takes its time.
COMPILED = ["depthwise-2d", "einsum", "3d-same-strides", "causal-strides", "unequal-strides"]
# The first problem of a separable convolution is a depthwise one.
SEPARABLE = {
    "separable-1d": (lambda: layers.SeparableConv1D(3, 2), (3, 6, 1)),
    "separable-2d": (lambda: layers.SeparableConv2D(3, 2, depth_multiplier=2), (3, 4, 5, 1)),
}


def net(make, shape, dtype="float64"):
    keras.config.set_dtype_policy(dtype)
    layer = make()
    model = keras.Sequential([keras.Input(shape[1:]), layer, layers.Activation("tanh")])
    model.add(layers.Flatten())
    model.add(layers.Dense(2))
    keras.config.set_dtype_policy("float32")
    return model, layer


def inputs(shape):
    return tf.constant(np.random.default_rng(len(shape)).normal(size=shape))


def expected(model, layer, x, weights):
    """Returns the step in `weights`, stacked, by the layer's Jacobian: a float64 solve."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(model(x)))
    gradient = tape.gradient(loss, [w.value for w in weights])
    a = jacobian(lambda: layer(x), weights)
    g = np.concatenate([np.ravel(part) for part in gradient])
    return np.linalg.solve(a.T @ a + np.eye(len(g)) / TAU, g)


def jacobian(outputs, weights):
    """Returns the matrix of a function that is linear in the weights, entry by entry."""
    values = [w.numpy() for w in weights]
    # One trace: eager, Keras compiles grouped convolutions for every call.
    outputs = tf.function(outputs)

    for w in weights:
        w.assign(np.zeros(w.shape))
    at_zero = np.ravel(outputs())

    def column(weight, entry):
        unit = np.zeros(weight.shape)
        unit.flat[entry] = 1
        weight.assign(unit)
        found = np.ravel(outputs()) - at_zero
        weight.assign(np.zeros(weight.shape))
        return found

    columns = [column(w, entry) for w in weights for entry in range(np.prod(w.shape))]
    for w, value in zip(weights, values):
        w.assign(value)
    return np.stack(columns, axis=1)


def stacked(directions):
    return np.concatenate([np.ravel(d) for d in directions])


SOLVERS = {
    "exact": "exact",
    "cg": solvers.ConjugateGradient(40),
}


@pytest.mark.parametrize("name", CASES)
def test_every_solver_takes_the_step_of_the_jacobian(name):
    make, shape, _ = CASES[name]
    model, layer = net(make, shape)
    x = inputs(shape)
    right = expected(model, layer, x, layer.trainable_variables)
    for solver in SOLVERS.values():
        with ImplicitGradientTape(model, TAU, solver) as tape:
            loss = tf.reduce_sum(tf.sin(model(x)))
        ours = tape.gradient(loss, layer.trainable_variables)
        assert_close(stacked(ours), right, 1e-7)


@pytest.mark.parametrize("name", COMPILED)
def test_it_is_the_same_step_when_compiled(name):
    make, shape, _ = CASES[name]
    model, layer = net(make, shape)
    x = inputs(shape)

    @tf.function(jit_compile=True)
    def directions(x):
        with ImplicitGradientTape(model, TAU, "exact") as tape:
            loss = tf.reduce_sum(tf.sin(model(x)))
        return tape.gradient(loss, layer.trainable_variables)

    right = expected(model, layer, x, layer.trainable_variables)
    assert_close(stacked(directions(x)), right, 1e-7)


@pytest.mark.parametrize("name", SEPARABLE)
def test_a_separable_convolution_of_one_channel_solves_for_each_kernel(name):
    make, shape = SEPARABLE[name]
    model, layer = net(make, shape)
    x = inputs(shape)
    with ImplicitGradientTape(model, TAU) as tape:
        loss = tf.reduce_sum(tf.sin(model(x)))
    depthwise, *pointwise = tape.gradient(loss, layer.trainable_variables)
    kernel, *others = layer.trainable_variables
    right = expected(model, layer, x, others)
    assert_close(stacked(pointwise), right, 1e-7)
    # z of the first map, which no layer returns, is the depthwise product.
    convolve = keras.ops.depthwise_conv

    def outputs(z):
        z = keras.ops.conv(z, layer.pointwise_kernel) + layer.bias
        for later in model.layers[1:]:
            z = later(z)
        return tf.reduce_sum(tf.sin(z))

    with tf.GradientTape() as tape:
        z = convolve(x, kernel)
        tape.watch(z)
        loss = outputs(z)
    gradient = tape.gradient(loss, kernel.value)
    a = jacobian(lambda: convolve(x, kernel), [kernel])
    right = np.linalg.solve(a.T @ a + np.eye(a.shape[1]) / TAU, np.ravel(gradient))
    assert_close(np.ravel(depthwise), right, 1e-7)


@pytest.mark.parametrize("name, memory", in_turns(COMPILED, ["auto", "all"]))
def test_they_train_with_memory(name, memory):
    keep = CurvatureMemory(refresh_every=2, layers="all") if memory == "all" else memory
    make, shape, _ = CASES[name]
    model, _ = net(make, shape, "float32")
    model.compile(ProxProp(memory=keep), loss="mse", jit_compile=False)
    before = weights_of(model)
    model.fit(inputs(shape), np.ones([shape[0], 2]), epochs=3, verbose=0)
    after = weights_of(model)
    assert all(np.isfinite(w).all() for w in after)
    assert any(np.any(a != b) for a, b in zip(after, before))


@pytest.mark.parametrize("name", CASES)
def test_summary_has_them(name):
    make, shape, groups = CASES[name]
    model, layer = net(make, shape)
    report = layer_reports(model, 4)[0]
    kernel, *bias = layer.trainable_variables
    columns = np.prod(layer.compute_output_shape(shape)[-1:]) if "einsum" not in name else 3
    assert report.step == "implicit"
    assert report.features == np.prod(kernel.shape) // columns + len(bias)
