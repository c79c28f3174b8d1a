"""What is run again of a layer's own `call` runs as the call itself: in the same precision,
with the same flags, masks and seeds, on the same inputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, in_turns, relative_error
from keras import layers, ops
from own_call_layers import Averaging, Casting, Dropping, Several, Strict, Watched

import keras_proxprop
from keras_proxprop import ImplicitGradientTape, ProxProp, blocks, solvers
from keras_proxprop.keras_seams.unlisted_layers import layer_scale_classes
from keras_proxprop.reports.summary import layer_reports

(LayerScale,) = layer_scale_classes()
POLICIES = {"mixed_float16": 0.02, "mixed_bfloat16": 0.1, "float16": 0.05}


@pytest.fixture
def registered():
    kinds = [Strict, Casting, Watched, Dropping, Several, Averaging]
    for kind in kinds:
        keras_proxprop.register_block(kind)
    yield
    for kind in kinds:
        del blocks._BLOCKS[kind]


KINDS = {
    "prelu": (layers.PReLU, (6,)),
    "prelu-shared": (lambda: layers.PReLU(shared_axes=[1]), (3, 6)),
    "layer-scale": (lambda: LayerScale(0.5, 6), (6,)),
    "strict": (Strict, (6,)),
    "casting": (Casting, (6,)),
    "dense": (lambda: layers.Dense(6), (6,)),
    "einsum-dense": (lambda: layers.EinsumDense("ab,bc->ac", 4, bias_axes="c"), (6,)),
    "convolution": (lambda: layers.Conv1D(4, 2), (5, 6)),
    "depthwise": (lambda: layers.DepthwiseConv1D(2), (5, 6)),
    "separable": (lambda: layers.SeparableConv1D(4, 2), (5, 6)),
    "transposed": (lambda: layers.Conv1DTranspose(4, 2), (5, 6)),
    "batch-normalization": (layers.BatchNormalization, (6,)),
    "layer-normalization": (layers.LayerNormalization, (6,)),
    "group-normalization": (lambda: layers.GroupNormalization(2), (6,)),
    "rms-normalization": (layers.RMSNormalization, (6,)),
    "lstm": (lambda: layers.LSTM(4), (5, 6)),
    "gru": (lambda: layers.GRU(4), (5, 6)),
}


def net(kind, policy):
    """A layer that needs the gradient of its inputs, for the weights of one before it."""
    make, shape = KINDS[kind]
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    try:
        layer = make()
        parts = [keras.Input(shape), layers.Dense(6, name="before"), layer]
        parts += [layers.Activation("tanh"), layers.Flatten(), layers.Dense(2)]
        return keras.Sequential(parts), layer
    finally:
        keras.config.set_dtype_policy("float32")


def data(kind):
    shape = KINDS[kind][1]
    return np.random.default_rng(0).normal(size=(8, *shape)).astype("float32")


# Of which `summary` says that they step explicitly.
EXPLICIT = [("rms-normalization", "float16")]


@pytest.mark.parametrize(
    "kind, policy", [c for c in in_turns(KINDS, POLICIES, rounds=2) if c not in EXPLICIT]
)
def test_directions_in_half_precision_are_nearly_those_of_float32(kind, policy, registered):
    found = []
    for name in (policy, "float32"):
        model, layer = net(kind, name)
        for weight, value in zip(model.weights, net(kind, "float32")[0].weights):
            weight.assign(ops.cast(value, weight.dtype))
        with ImplicitGradientTape(model, 0.3) as tape:
            loss = tf.reduce_mean(tf.cast(model(data(kind), training=True), "float32") ** 2)
        found.append(tape.gradient(loss, model.trainable_variables))
    # Of a layer's weights together: in a bias's direction alone much may cancel.
    of_layer = [weight.path.rsplit("/", 1)[0] for weight in model.trainable_variables]
    for name in set(of_layer):
        ours, theirs = (
            np.concatenate(
                [np.ravel(tf.cast(d, "float32")) for d, o in zip(ds, of_layer) if o == name]
            )
            for ds in found
        )
        assert relative_error(ours, theirs) < POLICIES[policy]


@pytest.mark.parametrize("kind, policy", EXPLICIT)
def test_what_cannot_run_again_in_half_precision_steps_explicitly(kind, policy, registered):
    model, layer = net(kind, policy)
    (report,) = [r for r in layer_reports(model, 8) if r.name == layer.name]
    assert report.step == f"explicit: its scale is in {policy}"
    model.compile(ProxProp(), loss="mse", jit_compile=False)
    assert np.isfinite(model.train_on_batch(data(kind), np.ones((8, 2))))


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_they_train_in_mixed_precision(jit_compile, registered):
    for kind in ("prelu", "layer-scale", "strict", "casting"):
        model, layer = net(kind, "mixed_float16")
        # Compiled with CG, of which XLA makes code sooner.
        optimizer = ProxProp(solver="cg" if jit_compile else "auto")
        model.compile(optimizer, loss="mse", jit_compile=jit_compile)
        before = layer.trainable_variables[0].numpy()
        model.train_on_batch(data(kind), np.ones((8, 2)))
        assert np.any(layer.trainable_variables[0].numpy() != before)


@pytest.mark.parametrize("training", [True, False, None])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_every_run_sees_what_the_layers_own_call_sees(training, masked, policy, registered):
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((3, 4))
        hidden = layers.Masking()(inputs) if masked else inputs
        watched = Watched()
        outputs = watched(layers.Dense(4)(hidden))
        pooled = layers.GlobalAveragePooling1D()(outputs)
        model = keras.Model(inputs, layers.Dense(2)(pooled))
    finally:
        keras.config.set_dtype_policy("float32")
    x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype("float32")
    del watched.seen[:]
    model(x, training=training)
    expected = set(watched.seen)
    del watched.seen[:]
    for solver in ("auto", "exact", "cg"):
        with ImplicitGradientTape(model, 1.0, solver) as tape:
            loss = tf.reduce_sum(tf.cast(model(x, training=training), "float32") ** 2)
        tape.gradient(loss, model.trainable_variables)
    assert len(watched.seen) > 6
    assert set(watched.seen) == expected


def directions_and_gradient(model, x, weights, tau=0.3, solver="exact", **kwargs):
    with ImplicitGradientTape(model, tau, solver, final_layer="implicit") as tape:
        loss = tf.reduce_sum(tf.sin(model(x, **kwargs)))
    return tape.gradient(loss, weights)


def solve(a, d, tau=0.3):
    return np.linalg.solve(a.T @ a + np.eye(a.shape[1]) / tau, a.T @ d)


@pytest.mark.parametrize("solver", ["exact", solvers.ConjugateGradient(20)])
def test_the_rows_are_those_that_dropout_left(float64, solver, registered):
    layer = Dropping()
    model = keras.Sequential([keras.Input((5,)), layer])
    x = np.random.default_rng(0).normal(size=(7, 5))
    (p,) = directions_and_gradient(model, x, [layer.w], solver=solver, training=True)
    # As of the last call in the forward pass: the state of the seed that it was called in.
    layer.dropout.seed_generator.state.assign(
        layer.dropout.seed_generator.state.numpy() - np.array([0, 1], "uint32")
    )
    z = model(x, training=True)
    a = layer.dropped.numpy()
    assert np.any(a == 0)
    assert_close(p, solve(a, np.cos(z)), 1e-8)


def test_statistics_move_once_a_step_and_rows_see_them_as_they_were(float64, registered):
    layer = Averaging()
    model = keras.Sequential([keras.Input((5,)), layer])
    x = np.random.default_rng(0).normal(size=(7, 5))
    before = float(layer.mean.numpy())
    (p,) = directions_and_gradient(model, x, [layer.w])
    assert float(layer.mean.numpy()) == before * 0.5 + 1
    a = x * before
    assert_close(p, solve(a, np.cos(a @ layer.w.numpy())), 1e-8)


def test_a_running_mean_is_not_rounded_in_mixed_precision(registered):
    layer = Averaging(dtype="mixed_bfloat16")
    model = keras.Sequential([keras.Input((5,)), layer, layers.Dense(2)])
    layer.mean.assign(1.001)
    with ImplicitGradientTape(model):
        model(np.ones((2, 5), "float32"))
    plain = Averaging(dtype="mixed_bfloat16")
    plain.build((2, 5))
    plain.mean.assign(1.001)
    plain(np.ones((2, 5), "float32"))
    assert layer.mean.numpy() == plain.mean.numpy()


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
@pytest.mark.parametrize("solver", ["exact", solvers.ConjugateGradient(20)])
def test_a_layer_may_take_and_return_several_tensors(float64, solver, wrap, registered):
    layer = Several()

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def call(self, x):
            returned = layer(x[0], x[1], ids=x[2], scale=2.0)
            second, ids, nothing = returned["second"]
            assert nothing is None and ids.dtype == tf.int32
            return tf.concat([returned["first"], second, tf.cast(ids, second.dtype)], 1)

    random = np.random.default_rng(0)
    x, context = random.normal(size=(2, 6, 3))
    ids = np.arange(6, dtype="int32")[:, None]
    model = Model()
    model((x, context, ids))
    w, v = wrap(
        lambda: directions_and_gradient(
            model, (x, context, ids), [layer.w, layer.v], 0.3, solver
        )
    )()
    d = np.cos(2 * x @ layer.w.numpy())
    assert_close(w, solve(2 * x, d), 1e-8)
    assert_close(v, solve(context, np.cos(context @ layer.v.numpy())), 1e-8)


def test_what_leans_on_keras_is_there():
    from keras.src.backend.common import global_state

    from keras_proxprop.keras_seams.own_call import _CONTEXT, CallScope

    found = []

    class Layer(layers.Layer):
        def call(self, x):
            found.append((global_state.get_global_attribute(_CONTEXT), CallScope()))
            return x

    Layer(dtype="mixed_bfloat16")(np.ones(2), training=True)
    context, scope = found[0]
    assert context.training is True and scope._dtype == "bfloat16"
    assert global_state.get_global_attribute(_CONTEXT) is None
