"""Curvature memory: what the direction is, checked against NumPy, and how it is kept."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    MODES,
    assert_close,
    assert_close_weights,
    assert_equal_weights,
    weights_of,
)

import keras_proxprop
from keras_proxprop import CurvatureMemory, ProxProp
from keras_proxprop.blocks import find_block
from keras_proxprop.solvers import ConjugateGradient

L = keras.layers
FLOOR = 1e-5


class AveragedReference:
    """P = (R Ḡ + I/τ)⁻¹ G in NumPy, float64, with the schedule of refreshes written out."""

    def __init__(self, decay, refresh_every, tau):
        self.decay, self.every, self.tau = decay, refresh_every, tau
        self.grams, self.last, self.refreshes = [], None, []

    def direction(self, step, a, gradient):
        allowed = min(max(step // 4, 1), self.every)
        if self.last is None or step - self.last >= allowed:
            age = max(step - (self.last or 0), 1)
            keep = self.decay ** (age / self.every)
            self.grams = [(keep * w, g, r) for w, g, r in self.grams]
            self.grams.append((1 - keep, a.T @ a / len(a), len(a)))
            self.last = step
            self.refreshes.append(step)
            total = sum(w for w, _, _ in self.grams)
            gram = sum(w * g for w, g, _ in self.grams) / total
            rows = sum(w * r for w, _, r in self.grams) / total
            tau = 10 / np.mean(np.diag(rows * gram)) if self.tau == "auto" else self.tau
            matrix = rows * gram + np.eye(a.shape[1]) / tau
            self.matrix = matrix + FLOOR * np.diag(np.diag(matrix))
        return np.linalg.solve(self.matrix, gradient)


def jacobian(layer, x):
    """Returns the rows of `A` that one output column sees, by automatic differentiation."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = tf.reshape(layer(x)[..., 0], [-1])
    parts = tape.jacobian(z, layer.trainable_variables)
    return np.concatenate([p.numpy()[..., 0].reshape(len(z), -1) for p in parts], axis=1)


CASES = {
    "dense": (lambda: L.Dense(3), (7, 4)),
    "dense-no-bias": (lambda: L.Dense(3, use_bias=False), (2, 4)),
    "dense-on-sequences": (lambda: L.Dense(3), (4, 6, 3)),
    "conv1d-causal": (lambda: L.Conv1D(2, 3, padding="causal"), (3, 6, 2)),
    "conv2d-same": (lambda: L.Conv2D(2, 3, padding="same"), (3, 5, 4, 2)),
    "conv2d-strided": (lambda: L.Conv2D(2, 3, 2, use_bias=False), (3, 7, 5, 2)),
}


@pytest.mark.parametrize("tau", [0.5, "auto"])
@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_the_averaged_gram_matrix(name, tau, float64):
    make, shape = CASES[name]
    layer = make()
    model = keras.Sequential([keras.Input(shape[1:]), layer])
    memory = CurvatureMemory(decay=0.7, refresh_every=4, layers="all")
    optimizer = ProxProp(
        keras.optimizers.SGD(0.3), tau=tau, final_layer="implicit", memory=memory
    )
    model.compile(optimizer, loss="mse", jit_compile=False)
    reference = AveragedReference(0.7, 4, tau)
    random = np.random.default_rng(0)
    weights = [w.numpy() for w in layer.trainable_variables]
    for step in range(53):
        # Now and then a batch is smaller.
        x = tf.constant(random.normal(size=(shape[0] - step % 2, *shape[1:])) + 0.3)
        y = random.normal(size=layer(x).shape)
        a = jacobian(layer, x)
        residual = (layer(x).numpy() - y).reshape(-1, y.shape[-1]) * 2 / y.size
        direction = reference.direction(step, a, a.T @ residual)
        split = np.split(direction, [direction.shape[0] - layer.use_bias])
        weights = [w - 0.3 * np.reshape(p, w.shape) for w, p in zip(weights, split)]
        model.train_on_batch(x, y)
        for variable, weight in zip(layer.trainable_variables, weights):
            assert_close(variable.numpy(), weight, 1e-9)
    # Every step at first, and then ever less often.
    assert reference.refreshes[:8] == list(range(8))
    assert np.all(np.diff(reference.refreshes[-3:]) == 4)


def convnet(jit=False, dtype=None, **arguments):
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            L.Conv2D(3, 3, padding="same", activation="relu"),
            L.DepthwiseConv2D(3, depth_multiplier=2),
            L.BatchNormalization(),
            L.Flatten(),
            L.Dense(5, activation="tanh"),
            L.Dense(2),
        ]
    )
    arguments = {"memory": CurvatureMemory(layers="all", refresh_every=3), **arguments}
    model.compile(ProxProp(**arguments), loss="mse", **MODES["xla" if jit else "graph"])
    return model


def data(n=24, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 6, 6, 2)).astype("float32")
    return x, np.tanh(x[:, 0, :2, 0] * 3)


def train(model, epochs=3, n=24, batch=8, **kwargs):
    return model.fit(*data(n), batch, epochs, shuffle=False, verbose=0, **kwargs)


def state(model):
    return weights_of(model) + [v.numpy() for v in model.optimizer.variables]


def test_the_first_step_is_the_batchs_own():
    own, kept = convnet(memory=None), convnet()
    for model in (own, kept):
        train(model, epochs=1, n=8)
    assert_close_weights(weights_of(kept), weights_of(own), 1e-3)


def test_where_all_batches_are_alike_so_are_the_steps():
    layers = [keras.Input((4,)), L.Dense(3)]
    models = [keras.Sequential(layers), keras.Sequential(layers)]
    x, y = np.random.default_rng(0).normal(size=(2, 9, 4))
    for memory, model in zip([None, CurvatureMemory(layers="all")], models):
        model.set_weights([np.ones((4, 3)), np.zeros(3)])
        sgd = keras.optimizers.SGD(0.5)
        model.compile(ProxProp(sgd, final_layer="implicit", memory=memory), loss="mse")
        model.fit(x, y[:, :3], epochs=30, verbose=0)
    assert_close_weights(weights_of(models[1]), weights_of(models[0]), 1e-3)


def test_to_be_watched_changes_no_step():
    watched, alone = convnet(), convnet()
    train(watched, epochs=6, callbacks=[keras_proxprop.StepMonitor(3)])
    train(alone, epochs=6)
    assert_close_weights(weights_of(watched), weights_of(alone), 1e-6)


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_xla_takes_the_same_steps(steps_per_execution):
    plain, xla = convnet(), convnet(jit=True)
    xla.steps_per_execution = steps_per_execution
    for model in (plain, xla):
        train(model, epochs=4, n=32)
    assert_close_weights(weights_of(xla), weights_of(plain), 1e-3)


def test_a_step_is_traced_once(monkeypatch):
    traces = []
    trace = keras_proxprop.training.ImplicitGradientTape.gradient

    def counted(self, *arguments):
        traces.append(None)
        return trace(self, *arguments)

    monkeypatch.setattr(keras_proxprop.training.ImplicitGradientTape, "gradient", counted)
    model = convnet()
    # Keras traces a step twice where it creates the optimizer's variables in it.
    model.optimizer.build(model.trainable_variables)
    train(model, epochs=20)
    assert len(traces) == 1


def _ops(graph):
    """Returns the names of all op types at the top level of a graph."""
    return [op.type for op in graph.get_operations()]


def test_a_step_without_a_refresh_makes_no_gram_matrix_and_no_factorization():
    model = convnet()
    train(model, epochs=1)

    @tf.function
    def step(x, y):
        return model.train_step((x, y))

    graph = step.get_concrete_function(*map(tf.constant, data(8))).graph
    # Its own weight gradient, one per layer: all else is in the branches of a refresh.
    assert _ops(graph).count("Conv2DBackpropFilter") == 1
    assert "Cholesky" not in _ops(graph)
    inside = [f.name for f in graph._functions.values()] if graph._functions else []
    assert inside, "the refresh is in functions that tf.cond calls"


@pytest.mark.parametrize("way", ["keras", "weights", "checkpoint"])
def test_state_is_saved_and_training_goes_on_alike(way, tmp_path):
    model = convnet()
    train(model)
    if way == "keras":
        model.save(tmp_path / "m.keras")
        other = keras.models.load_model(tmp_path / "m.keras")
    else:
        other = convnet()
        other.optimizer.build(other.trainable_variables)
        if way == "weights":
            model.save_weights(tmp_path / "m.weights.h5")
            other.load_weights(tmp_path / "m.weights.h5")
        else:
            path = tf.train.Checkpoint(model=model, o=model.optimizer).save(tmp_path / "c")
            tf.train.Checkpoint(model=other, o=other.optimizer).restore(path)
    for each in (model, other):
        train(each)
    assert len(state(other)) == len(state(model))
    assert_close_weights(state(other), state(model), 1e-6)


def test_saved_state_of_another_shape_is_not_taken_over_and_said_so(tmp_path):
    model = convnet()
    train(model)
    store = {}
    model.optimizer.save_own_variables(store)
    for name in ("average", "inverse"):
        store[f"curvature_0_{name}"] = np.ones((2, 2), "float32")
    other, alone = convnet(), convnet()
    other.optimizer.build(other.trainable_variables)
    other.optimizer.load_own_variables(store)
    with pytest.warns(UserWarning, match="Skipping variable loading for .curvature_0"):
        train(other)
    # What was not taken over is not saved either.
    train(alone)
    again, expected = {}, {}
    other.optimizer.save_own_variables(again)
    alone.optimizer.save_own_variables(expected)
    assert {k: np.shape(v) for k, v in again.items()} == {
        k: np.shape(v) for k, v in expected.items()
    }
    own = [name for name in again if name.startswith("curvature_0")]
    assert_close_weights([again[n] for n in own], [expected[n] for n in own], 1e-4)
    # Into an optimizer that has its own already: these stay.
    with pytest.warns(UserWarning, match="Skipping variable loading for .curvature_0"):
        alone.optimizer.load_own_variables(store)


@pytest.mark.parametrize("way", ["keras", "weights"])
def test_state_is_there_as_soon_as_it_is_loaded_and_can_be_saved_again(way, tmp_path):
    model = convnet()
    train(model)

    def copied(model, name):
        path = str(tmp_path / name)
        if way == "keras":
            model.save(path + ".keras")
            return keras.models.load_model(path + ".keras")
        model.save_weights(path + ".weights.h5")
        other = convnet()
        other.optimizer.build(other.trainable_variables)
        other.load_weights(path + ".weights.h5")
        return other

    once = copied(model, "once")
    twice = copied(once, "twice")
    for other in (once, twice):
        names = [[v.name for v in m.optimizer._curvatures.variables] for m in (model, other)]
        assert names[0] == names[1] and len(names[0]) == 15
        assert_equal_weights(state(other), state(model))
    for each in (model, twice):
        train(each)
    assert_close_weights(state(twice), state(model), 1e-6)
    # Into one that has trained: its own are overwritten.
    model.optimizer.save_own_variables(store := {})
    train(twice)
    twice.optimizer.load_own_variables(store)
    assert_equal_weights(
        [v.numpy() for v in twice.optimizer._curvatures.variables],
        [v.numpy() for v in model.optimizer._curvatures.variables],
    )


def test_nothing_of_it_is_exported(tmp_path):
    model = convnet()
    train(model)
    model.export(tmp_path / "served", verbose=False)
    variables = tf.train.load_checkpoint(str(tmp_path / "served/variables/variables"))
    shapes = variables.get_variable_to_shape_map()
    assert not any("curvature" in name or "optimizer" in name for name in shapes)
    served = tf.saved_model.load(str(tmp_path / "served"))
    x, _ = data(4)
    np.testing.assert_allclose(served.serve(x), model(x), rtol=1e-4, atol=1e-5)


def test_an_overflow_is_forgotten():
    # What loss scaling skips must not stay in the average.
    model = convnet()
    train(model, epochs=1)
    before = [w.copy() for w in weights_of(model)]
    x, y = data(8)
    model.train_on_batch(np.full_like(x, np.inf), y)
    kept = model.optimizer._curvatures.variables
    assert kept and all(np.all(np.isfinite(v.numpy())) for v in kept)
    assert len(before) == len(weights_of(model))


def test_auto_keeps_the_batchs_own_where_that_is_cheaper():
    layers = [
        keras.Input((16, 16, 3)),
        L.Conv2D(8, 3, name="conv"),
        L.BatchNormalization(name="norm"),
        L.Flatten(),
        L.Dense(64, name="dense"),
        L.Dense(2, name="last"),
    ]
    model = keras.Sequential(layers)
    model.compile(ProxProp(memory=CurvatureMemory(refresh_every=7)), loss="mse")
    reports = keras_proxprop.reporting.layer_reports(model, batch_size=32)
    chosen = {r.name: r.solver for r in reports}
    assert chosen["conv"] == "memory/7"
    # 1568 features: their factorization is dear.
    assert chosen["dense"] == "dual"
    assert chosen["norm"] == "closed"
    x = np.zeros((32, 16, 16, 3))
    model.fit(x, np.zeros((32, 2)), verbose=0)
    assert len(model.optimizer._curvatures._states) == 1


def test_a_change_of_tau_counts_from_the_next_refresh():
    model = convnet(tau=1.0, memory=CurvatureMemory(refresh_every=2, layers="all"))
    train(model, epochs=10)
    inverse = model.optimizer._curvatures.variables[1]
    model.optimizer.tau = 1e-6
    train(model, epochs=1)
    assert_close(inverse.numpy(), 1e-6 * np.eye(inverse.shape[0]), 1e-2)


def test_a_step_count_that_is_set_back_refreshes_at_once():
    model = convnet(memory=CurvatureMemory(refresh_every=50, layers="all"))
    train(model, epochs=20)
    model.optimizer._iterations.assign(0)
    train(model, epochs=1, n=8)
    assert int(model.optimizer._curvatures.variables[4].numpy()) == 0


def test_in_a_loop_of_ones_own():
    model = convnet()
    optimizer = ProxProp(memory=CurvatureMemory(layers="all"))
    x, y = data(8)
    for _ in range(3):
        with keras_proxprop.ImplicitGradientTape(model, **optimizer.step_arguments()) as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        directions = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(directions, model.trainable_variables))
    assert len(optimizer._curvatures._states) == 3
    assert int(optimizer._curvatures.variables[4]) == 2


@pytest.mark.parametrize(
    "arguments, error, match",
    [
        ({"decay": 1.0}, ValueError, "`decay` must be a float in"),
        ({"decay": -0.1}, ValueError, "`decay`"),
        ({"decay": "fast"}, ValueError, "decay='fast'"),
        ({"refresh_every": 0}, ValueError, "`refresh_every` must be an integer"),
        ({"refresh_every": 2.5}, ValueError, "refresh_every=2.5"),
        ({"layers": "some"}, ValueError, "layers='some'"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, match):
    with pytest.raises(error, match=match):
        CurvatureMemory(**arguments)


def test_a_wrong_memory_is_named():
    with pytest.raises(TypeError, match="`memory` must be .* Received: memory=3"):
        ProxProp(memory=3)
    with pytest.raises(ValueError, match="conjugate gradients"):
        ProxProp(memory=CurvatureMemory(), solver="cg")
    assert ProxProp(memory="auto", solver=ConjugateGradient(2)).memory is None


def test_the_config_is_plain_data_and_makes_the_same_memory():
    optimizer = ProxProp(memory=CurvatureMemory(0.5, 3, "all"))
    config = json.loads(json.dumps(optimizer.get_config()))
    assert ProxProp.from_config(config).memory == CurvatureMemory(0.5, 3, "all")
    assert ProxProp.from_config(ProxProp(memory=None).get_config()).memory is None


def test_a_generic_block_has_no_memory():
    class Bias(L.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=shape[1:])

        def call(self, x):
            return x * self.w

    keras_proxprop.register_block(Bias)
    layer = Bias()
    layer.build((None, 3))
    rows = find_block(layer)[0].rows(tf.ones([2, 3]), False)
    solver = keras_proxprop.solvers.Exact()
    assert CurvatureMemory(layers="all").solver(rows, 1, solver) is solver
