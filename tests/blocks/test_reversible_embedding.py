"""ReversibleEmbedding: one matrix in lookups and projections is one problem."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, in_turns
from keras import layers

from keras_proxprop import ImplicitGradientTape, ProxProp, StepMonitor
from keras_proxprop.blocks import find_block
from keras_proxprop.reports.summary import layer_reports

TAU = 0.7
VOCABULARY, DIM = 6, 3
TOKENS = np.array([[0, 2, 2, 5], [5, 2, 0, -1]])
WRAPS = {
    "eager": lambda f: f,
    "graph": tf.function,
    "xla": functools.partial(tf.function, jit_compile=True),
}


class Model(keras.Model):
    """Looks tokens up (`ways` holds "lookup") and projects (`ways` holds "project")."""

    def __init__(self, ways, **arguments):
        super().__init__()
        self.embedding = layers.ReversibleEmbedding(
            VOCABULARY, DIM, embeddings_initializer="normal", **arguments
        )
        if "lookup" in ways:
            self.last = layers.Dense(2, name="last")
        self.ways = ways

    def call(self, x):
        tokens, states = x
        outputs = []
        if "lookup" in self.ways:
            outputs.append(self.embedding(tokens))
        if "project" in self.ways:
            outputs += [self.embedding(s, reverse=True) for s in (states, 2 * states[:1])]
        return [self.last(tf.sin(3 * o)) if o.shape[-1] == DIM else o for o in outputs]


WAYS = ["lookup", "project", "lookup+project"]


def case(ways, **arguments):
    states = tf.constant(np.random.default_rng(1).normal(size=(2, 2, DIM)))
    x = tf.constant(TOKENS), states
    model = Model(ways, **arguments)
    model(x)
    for weight in model.weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    return model, x


def objective(model, x):
    return tf.add_n(
        [tf.reduce_sum(tf.sin(o) ** 2) for o in model(x)] + [tf.constant(0.0, "float64")]
    ) + sum(model.losses)


def expected(model, x):
    """Returns the directions of the embedding's weights, by dense solves with Jacobians."""
    weights = model.embedding.trainable_variables
    with tf.GradientTape() as tape:
        loss = objective(model, x)
    zero = tf.UnconnectedGradients.ZERO
    gradients = tape.gradient(loss, [w.value for w in weights], unconnected_gradients=zero)
    outputs = []
    with tf.GradientTape(persistent=True) as tape:
        if "lookup" in model.ways:
            outputs.append(model.embedding(x[0]))
        if "project" in model.ways:
            for states in (x[1], 2 * x[1][:1]):
                kernel = model.embedding.embeddings.value
                if not model.embedding.tie_weights:
                    kernel = tf.transpose(model.embedding.reverse_embeddings.value)
                outputs.append(tf.matmul(states, kernel, transpose_b=True))
        z = tf.concat([tf.reshape(o, [-1]) for o in outputs], 0)
    directions = []
    for weight, gradient in zip(weights, gradients):
        a = tape.jacobian(z, weight.value, experimental_use_pfor=False)
        a = tf.zeros([len(z), *weight.shape], z.dtype) if a is None else a
        a = np.reshape(tf.convert_to_tensor(a), [len(z), -1])
        gradient = np.reshape(tf.convert_to_tensor(gradient), [-1])
        curvature = a.T @ a + np.eye(a.shape[1]) / TAU
        directions.append(np.linalg.solve(curvature, gradient).reshape(weight.shape))
    return directions


def directions(model, x, wrap=lambda f: f, tau=TAU):
    weights = model.embedding.trainable_variables

    @wrap
    def step():
        with ImplicitGradientTape(model, tau=tau, final_layer="implicit") as tape:
            loss = objective(model, x)
        return list(tape.gradient(loss, weights))

    return [None if d is None else tf.convert_to_tensor(d).numpy() for d in step()]


@pytest.mark.parametrize("ways, tied, wrap", in_turns(WAYS, [True, False], WRAPS, rounds=3))
def test_a_step_is_a_dense_solve_with_the_jacobian(float64, ways, tied, wrap):
    model, x = case(ways, tie_weights=tied)
    for actual, e in zip(directions(model, x, WRAPS[wrap]), expected(model, x)):
        if actual is None:
            assert not e.any()
        else:
            assert_close(actual, e, 1e-9)


@pytest.mark.parametrize("ways", WAYS)
def test_regularizers_are_preconditioned_with_the_rest(float64, ways):
    model, x = case(ways, embeddings_regularizer="l2")
    (actual,) = directions(model, x)
    assert_close(actual, *expected(model, x), 1e-9)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_what_is_only_looked_up_has_sparse_directions(tied):
    model, x = case("lookup", tie_weights=tied)
    with ImplicitGradientTape(model) as tape:
        loss = tf.add_n([tf.reduce_sum(o**2) for o in model(x)])
    direction = tape.gradient(loss, model.embedding.embeddings)
    assert isinstance(direction, tf.IndexedSlices)


@pytest.mark.parametrize("tau", [1.0, 1e5])
def test_float32_is_close_to_float64(tau):
    results = []
    for dtype in ("float64", "float32"):
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        model, x = case("lookup+project")
        x = x[0], tf.cast(x[1], dtype)
        with ImplicitGradientTape(model, tau=tau, final_layer="implicit") as tape:
            loss = tf.add_n([tf.reduce_sum(tf.sin(o) ** 2) for o in model(x)])
        results.append(tape.gradient(loss, model.embedding.embeddings))
    assert_close(results[1], results[0], 1e-3)


@pytest.mark.parametrize("arguments", [{}, {"logit_soft_cap": 2.0}, {"mask_zero": True}])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_block_computes_what_its_layer_computes(policy, tied, arguments):
    layer = layers.ReversibleEmbedding(
        VOCABULARY, DIM, tie_weights=tied, dtype=policy, **arguments
    )

    class Both(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding = layer

        def call(self, tokens):
            states = layer(tokens)
            masks.append(getattr(states, "_keras_mask", None))
            return states, layer(states, reverse=True)

    model, masks = Both(), []
    own = model(TOKENS)
    with ImplicitGradientTape(model) as tape:
        ours = model(TOKENS)
    assert len(tape._recorder.uses) == 2
    for a, b in zip(ours, own):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-6)
    if "mask_zero" in arguments:
        np.testing.assert_array_equal(*masks[-2:])


def test_a_frozen_part_stays_and_the_other_steps(float64):
    for frozen in ("_embeddings", "reverse_embeddings"):
        model, x = case("lookup+project", tie_weights=False)
        getattr(model.embedding, frozen).trainable = False
        (actual,) = directions(model, x)
        assert_close(actual, *expected(model, x), 1e-9)
    model.embedding.trainable = False
    assert find_block(model.embedding) == (None, "its kernel is frozen")


def test_thirty_steps_end_below_plain_sgd_at_its_best_rate(float64):
    embedding = layers.ReversibleEmbedding(VOCABULARY, DIM, embeddings_initializer="normal")
    tokens, states = keras.Input((4,), dtype="int32"), keras.Input((2, DIM))
    model = keras.Model([tokens, states], [embedding(tokens), embedding(states, reverse=True)])
    random = np.random.default_rng(0)
    # Directions of very different lengths.
    x = [TOKENS, random.normal(size=(2, 2, DIM)) * np.geomspace(0.2, 5, DIM)]
    start = embedding.get_weights()
    embedding.set_weights([random.normal(size=(VOCABULARY, DIM))])
    y = [o.numpy() for o in model(x)]

    def loss_after(tape, rate):
        embedding.set_weights(start)
        optimizer = keras.optimizers.SGD(rate)
        for _ in range(30):
            with tape() as t:
                loss = tf.add_n([tf.reduce_mean((a - b) ** 2) for a, b in zip(model(x), y)])
            gradients = t.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return float(loss)

    implicit = functools.partial(ImplicitGradientTape, model, tau=1e3, final_layer="implicit")
    explicit = [loss_after(tf.GradientTape, r) for r in (0.03, 0.1, 0.3, 1.0, 3.0)]
    assert loss_after(implicit, 5.0) < 0.1 * np.nanmin(explicit)


class Tied(keras.Model):
    """Predicts the next token; its projection is not the last layer."""

    def __init__(self):
        super().__init__()
        self.embedding = layers.ReversibleEmbedding(VOCABULARY, DIM)
        self.middle, self.last = layers.Dense(DIM, "tanh"), layers.Dense(VOCABULARY)

    def call(self, tokens):
        states = self.middle(self.embedding(tokens))
        return self.last(self.embedding(states, reverse=True))


def test_a_step_of_fit_is_observed_and_reported():
    model = Tied()
    model.compile(ProxProp(), loss="mse", jit_compile=False)
    x, y = abs(TOKENS), np.zeros([2, 4, VOCABULARY])
    history = model.fit(x, y, verbose=0, callbacks=[StepMonitor(1)]).history
    assert history["reversible_embedding/residual"][0] < 1e-4
    (report,) = [r for r in layer_reports(model) if r.kind == "ReversibleEmbedding"]
    assert (report.step, report.solver) == ("implicit", "closed")
