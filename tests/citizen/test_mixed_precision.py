"""Training in other precisions than float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, assert_equal_weights, weights_of
from scenarios import compiled, data, fit, inner, mlp, proxprop, with_both

from keras_proxprop import CurvatureMemory, ImplicitGradientTape, ProxProp, solvers

LossScale = keras.optimizers.LossScaleOptimizer


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def mixed(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def float16():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


@with_both
def test_mixed_precision_trains_in_float32_variables(new, mixed):
    model = compiled(mlp(), new(0.05))
    assert isinstance(model.optimizer, LossScale) == (mixed == "mixed_float16")
    loss = fit(model, epochs=15).history["loss"]
    assert loss[-1] < 0.7 * loss[0]
    assert {v.dtype for v in model.variables} == {"float32"}
    assert int(inner(model.optimizer).iterations) == 45


def test_mixed_precision_makes_nearly_the_directions_of_float32(mixed):
    x, y = data()
    found = []
    for policy in (mixed, "float32"):
        keras.config.set_dtype_policy(policy)
        model = mlp()
        with ImplicitGradientTape(model) as tape:
            loss = tf.reduce_mean(tf.square(y - tf.cast(model(x), "float32")))
        found.append(tape.gradient(loss, model.trainable_variables))
    for ours, theirs in zip(*found):
        assert ours.dtype == tf.float32
        assert_close(ours, theirs, 0.02 if mixed == "mixed_bfloat16" else 0.003)


@pytest.mark.parametrize("memory", [True, None])
def test_no_copy_in_float32_is_kept_through_the_backward_pass(memory, mixed):
    L = keras.layers
    layers = [
        L.Conv2D(4, 3, activation="tanh"),
        L.Conv2D(5, 3),
        L.Flatten(),
        L.Dense(6),
        L.Dense(3),
    ]
    model = keras.Sequential([keras.Input([7, 7, 2]), *layers])
    compiled(model, ProxProp(memory=memory and CurvatureMemory(layers="all")))
    model.optimizer.build(model.trainable_variables)
    batch = [tf.TensorSpec([None, *shape]) for shape in ([7, 7, 2], [3])]
    step = tf.function(lambda x, y: model.train_step((x, y)), autograph=False)
    graph = step.get_concrete_function(*batch).graph
    half = tf.as_dtype(mixed.removeprefix("mixed_"))
    widths = {2, 4, 45, 6}
    copies = [
        op
        for op in graph.get_operations()
        if op.type == "Cast"
        and (op.inputs[0].dtype, op.outputs[0].dtype) == (half, tf.float32)
        and op.outputs[0].shape.rank
        and op.outputs[0].shape[-1] in widths
        and "gradient_tape" not in op.name
    ]
    assert copies
    for copy in copies:
        waiting, before = [copy], set()
        while waiting:
            op = waiting.pop()
            if op not in before:
                before.add(op)
                waiting += [*op.control_inputs, *(tensor.op for tensor in op.inputs)]
        assert any("gradient_tape" in op.name for op in before), copy


def test_gram_matrices_and_solves_are_in_float32(mixed, monkeypatch):
    seen = set()
    cholesky, matmul = tf.linalg.cholesky, solvers.Exact.solve

    def spy(matrix):
        seen.add(matrix.dtype)
        return cholesky(matrix)

    def spy_solve(self, rows, d, tau, rest=None):
        seen.update({rows.dtype, d.dtype, tau.of(rows).dtype})
        return matmul(self, rows, d, tau, rest)

    monkeypatch.setattr(tf.linalg, "cholesky", spy)
    monkeypatch.setattr(solvers.Exact, "solve", spy_solve)
    fit(compiled(mlp(), proxprop(solver="exact")))
    # float64 is the way out where float32 does not do.
    assert tf.float32 in seen and seen <= {tf.float32, tf.float64}


@pytest.mark.parametrize("solver", ["exact", "cg"])
@pytest.mark.parametrize("form", ["primal", "dual"])
def test_a_step_that_overflows_float16_is_skipped_and_the_scale_halved(float16, solver, form):
    if solver == "exact":
        solver = solvers.Exact(form)
    model = mlp()
    # ∂L/∂z of the first layer, in float16, is infinite at this scale; its Gram matrix is not.
    optimizer = LossScale(proxprop(solver=solver), initial_scale=2.0**40)
    compiled(model, optimizer)
    before = weights_of(model)
    x, y = data(16)
    fit(model, x, y, batch_size=16)
    assert_equal_weights(weights_of(model), before)
    assert int(optimizer.iterations) == 0 and float(optimizer.dynamic_scale) == 2.0**39
    assert all((v.numpy() == 0).all() for v in inner(optimizer)._momentums)


@with_both
def test_training_goes_on_after_overflow_at_a_scale_that_fits(new, float16):
    model = mlp()
    optimizer = LossScale(new(0.05), initial_scale=2.0**24)
    loss = fit(compiled(model, optimizer), epochs=20).history["loss"]
    assert 2.0**8 < float(optimizer.dynamic_scale) < 2.0**24
    assert 0 < int(optimizer.iterations) < 60
    assert loss[-1] < 0.8 * loss[0] and np.isfinite(loss).all()


@pytest.mark.parametrize("solver", ["exact", "cg", "auto"])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_one_gradient_that_is_not_finite_makes_its_direction_not_finite(solver, bad):
    model = mlp()
    x, _ = data()
    d = np.full((24, 2), 1e-3, "float32")
    d[5, 1] = bad
    with ImplicitGradientTape(model, solver=solver, final_layer="implicit") as tape:
        loss = tf.reduce_sum(model(x) * d)
    kernel, bias, *last = tape.gradient(loss, model.trainable_variables)
    for direction in (kernel, bias, *last):
        assert not np.isfinite(direction).all()


@with_both
def test_loss_scaling_replaces_a_loss_scale_factor(new):
    runs = []
    for options in ({}, {"loss_scale_factor": 1024.0}):
        model = compiled(mlp(), LossScale(new(**options), initial_scale=8.0))
        assert inner(model.optimizer).loss_scale_factor is None
        fit(model)
        runs.append(weights_of(model))
    assert_equal_weights(*runs)


@with_both
def test_float64_trains_in_float64(new, float64):
    model = compiled(mlp(), new())
    x, y = (a.astype("float64") for a in data())
    loss = fit(model, x, y, epochs=5).history["loss"]
    assert loss[-1] < loss[0]
    assert {v.dtype for v in model.variables} == {"float64"}


def test_float64_keeps_the_step_to_float64_accuracy(float64):
    model = compiled(mlp(), ProxProp("sgd", 1.0, tau=0.1, memory=None))
    x, y = (a.astype("float64") for a in data())
    before = weights_of(model)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(y - model(x)))
    gradient = np.vstack(tape.gradient(loss, model.trainable_variables[:2]))
    a = np.column_stack([x, np.ones(24)])
    expected = np.linalg.solve(a.T @ a + 10 * np.eye(6), gradient)
    fit(model, x, y, batch_size=24)
    step = np.vstack([b - w for b, w in zip(before[:2], weights_of(model)[:2])])
    assert_close(step, expected, 1e-12)
