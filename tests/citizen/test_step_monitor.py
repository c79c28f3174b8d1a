"""StepMonitor reports what the steps really are, and leaves nothing behind."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import DIFFERENT_MODES, MODES, assert_close_weights, in_turns, weights_of
from monitor_statistics import STATISTICS, expected_statistics
from scenarios import compiled, data, fit, mlp, proxprop

from keras_proxprop import ProxProp, StepMonitor


@pytest.mark.parametrize(
    "mode, wrap",
    in_turns(DIFFERENT_MODES, [lambda o: o, keras.optimizers.LossScaleOptimizer])
    + [("graph", lambda o: o)],
)
def test_the_statistics_are_those_of_the_step(mode, wrap, capsys):
    model = mlp()
    model.compile(optimizer=wrap(proxprop(tau=0.3)), loss="mse", **MODES[mode])
    expected = expected_statistics(model, model.get_layer("hidden"), *data(), 0.3)
    log = fit(model, batch_size=24, callbacks=[StepMonitor(every=1)]).history
    found = [log[f"hidden/{name}"] for name in STATISTICS]
    assert all(len(values) == 1 for values in found)
    found = [values[0] for values in found]
    np.testing.assert_allclose(found[:6], expected, rtol=1e-4, atol=1e-5)
    assert found[6] > 0
    # The last layer steps explicitly.
    assert not any(name.startswith("last/") for name in log)
    table = capsys.readouterr().out
    assert "hidden" in table and f"{expected[0]:.4f}" in table and "last" not in table


def test_the_residual_tells_how_far_the_solver_got():
    residuals = []
    for solver in ("exact", "cg"):
        model = compiled(mlp(), proxprop(solver=solver, tau=100.0))
        residuals.append(fit(model, callbacks=[StepMonitor(1)]).history["hidden/residual"][0])
    assert residuals[0] < 1e-4 < 1e-3 < residuals[1] < 1


def convnet():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((6, 6, 2))
    conv = layers.Conv2D(3, 3, activation="relu", name="conv")
    twice = layers.Conv2D(3, 3, padding="same", name="twice")
    x = layers.GlobalAveragePooling2D()(twice(twice(conv(inputs))))
    heads = [layers.Dense(4, "tanh", name=name)(x) for name in ("left", "right")]
    return keras.Model(inputs, layers.Dense(2, name="last")(layers.add(heads)))


def test_convolutions_shared_layers_and_shared_inputs_are_reported():
    model = compiled(convnet(), proxprop())
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 2)).astype("float32")
    log = fit(model, x, data(16)[1], callbacks=[StepMonitor(2)]).history
    sizes = {n: (log[f"{n}/rows"][0], log[f"{n}/features"][0]) for n in ("conv", "twice")}
    # The second layer was called twice: its rows are stacked.
    assert sizes == {"conv": (8 * 16, 19), "twice": (2 * 8 * 16, 28)}
    for name in ("conv", "twice", "left", "right"):
        assert 0 < log[f"{name}/cosine"][0] <= 1.0001
        assert log[f"{name}/residual"][0] < 1e-4
    assert log["left/cosine"] != log["right/cosine"]
    # Left and right are one solve, which is timed once.
    assert log["left/seconds"][0] > 0 and log["right/seconds"][0] == 0


class Steps(keras.callbacks.Callback):
    """Notes at which steps the monitor took notes."""

    def __init__(self, monitor):
        super().__init__()
        self.monitor, self.steps, self.step = monitor, [], 0

    def on_train_batch_begin(self, batch, logs=None):
        self.due = bool(self.monitor._due.numpy())

    def on_train_batch_end(self, batch, logs=None):
        if self.due:
            self.steps.append(self.step)
        self.step += 1


@pytest.mark.parametrize(
    "every, expected",
    [(1, range(12)), (2, [0, 2, 4, 6, 8, 10]), (4, [0, 4, 6, 10]), (100, [0, 6])],
)
def test_it_notes_the_first_step_of_an_epoch_and_every_nth_after_it(every, expected):
    monitor = StepMonitor(every)
    steps = Steps(monitor)
    model = compiled(mlp(), proxprop())
    log = fit(model, batch_size=4, epochs=2, callbacks=[monitor, steps]).history
    assert steps.steps == list(expected)
    assert len(log["hidden/cosine"]) == 2


def test_an_epochs_logs_are_the_mean_of_what_was_noted_in_it():
    means = {}
    for every in (1, 2):
        log = fit(compiled(mlp(), proxprop()), epochs=2, callbacks=[StepMonitor(every)])
        means[every] = log.history["hidden/gradient_norm"]
    norms = []
    model = compiled(mlp(), proxprop())
    for _ in range(2):
        for i in (0, 8, 16):
            x, y = (a[i : i + 8] for a in data())
            norms.append(expected_statistics(model, model.layers[1], x, y, 1.0)[2])
            fit(model, x, y)
    n = np.reshape(norms, (2, 3))
    np.testing.assert_allclose(means[1], n.mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(means[2], n[:, ::2].mean(axis=1), rtol=1e-4)


def test_steps_per_execution_is_monitored():
    model = compiled(mlp(), proxprop(), steps_per_execution=2)
    log = fit(model, batch_size=4, epochs=2, callbacks=[StepMonitor(3)]).history
    assert len(log["hidden/cosine"]) == 2 and 0 < log["hidden/cosine"][0] < 1


def test_layers_of_one_name_in_nested_models_are_told_apart():
    keras.utils.set_random_seed(0)
    inner = [
        keras.Sequential(
            [keras.Input((5,)), keras.layers.Dense(5, "tanh", name="same")], name=name
        )
        for name in ("one", "two")
    ]
    model = keras.Sequential([keras.Input((5,)), *inner, keras.layers.Dense(2)])
    log = fit(compiled(model, proxprop()), callbacks=[StepMonitor(2)]).history
    assert {"one/same/kernel/cosine", "two/same/kernel/cosine"} <= {
        "/".join(name.split("/")[-4:]) for name in log
    }


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_layers_of_every_kind_are_reported(mode):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = layers.Embedding(7, 4, name="embedding")(tokens := keras.Input((6,), dtype="int32"))
    x = layers.SeparableConv1D(5, 3, name="separable")(x)
    x = layers.LayerNormalization(name="normalization")(x)
    x = layers.Conv1D(4, 2, groups=1, name="conv")(x)
    model = keras.Model(tokens, layers.Dense(2)(layers.GlobalMaxPooling1D()(x)))
    model.compile(optimizer=proxprop(), loss="mse", **MODES[mode])
    x = np.random.default_rng(0).integers(7, size=(16, 6))
    log = fit(model, x, data(16)[1], callbacks=[StepMonitor(1)]).history
    names = ["embedding", "normalization", "conv"]
    names += [f"separable/{kind}_kernel" for kind in ("depthwise", "pointwise")]
    for name in names:
        assert 0 < log[f"{name}/cosine"][0] <= 1.0001
        assert log[f"{name}/residual"][0] < 1e-4
        assert log[f"{name}/seconds"][0] > 0


def test_it_changes_no_step():
    models = [compiled(mlp(), proxprop()) for _ in range(2)]
    fit(models[0], epochs=3, callbacks=[StepMonitor(2)])
    fit(models[1], epochs=3)
    assert_close_weights(*map(weights_of, models), 1e-6)


def operations(model):
    """The number of operations in the training step's graph, functions included."""
    x, y = map(tf.constant, data(8))
    step = tf.function(model.train_step).get_concrete_function((x, y))
    definition = step.graph.as_graph_def()
    return len(definition.node) + sum(len(f.node_def) for f in definition.library.function)


class Count(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.operations = operations(self.model)


def test_it_costs_nothing_when_absent():
    count, model = Count(), compiled(mlp(), proxprop())
    fit(model)
    without = operations(model)
    fit(model, callbacks=[StepMonitor(2), count])
    assert count.operations > without
    # The monitored step is gone with the monitor.
    fit(model, callbacks=[plain := Count()])
    assert plain.operations == operations(model) == without


def test_a_monitor_comes_to_a_step_that_was_traced_before_and_is_used_again():
    model, monitor = compiled(mlp(), proxprop()), StepMonitor(2)
    fit(model)
    logs = [fit(model, callbacks=[monitor]).history["hidden/cosine"] for _ in range(2)]
    assert logs[0] != logs[1]
    assert "hidden/cosine" not in fit(model).history


def test_steps_that_loss_scaling_skips_are_not_in_the_means():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = mlp()
    finally:
        keras.config.set_dtype_policy("float32")
    optimizer = keras.optimizers.LossScaleOptimizer(proxprop(), initial_scale=2.0**24)
    log = fit(compiled(model, optimizer), epochs=8, callbacks=[StepMonitor(1)]).history
    assert int(optimizer.iterations) < 24
    assert np.isfinite(log["hidden/gradient_norm"]).all()
    assert max(log["hidden/gradient_norm"]) < 10


def test_a_model_without_proxprop_is_refused():
    with pytest.raises(ValueError, match="not compiled with a ProxProp"):
        fit(compiled(mlp(), "adam"), callbacks=[StepMonitor()])


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "2"])
def test_every_must_be_a_whole_number_of_steps(every):
    with pytest.raises(ValueError, match="`every`"):
        StepMonitor(every)


def test_a_model_without_implicit_steps_is_said_to_have_none(capsys):
    model = compiled(mlp(), ProxProp(exclude=keras.layers.Dense))
    with pytest.warns(UserWarning, match="No layer of model"):
        fit(model, callbacks=[StepMonitor()])
    assert "no layer took an implicit step" in capsys.readouterr().out
