"""A `MultiOptimizer` goes into a `ProxProp`, and trains there; around one it says so."""

import keras
import pytest
from helpers import assert_close_weights, assert_equal_weights, weights_of
from scenarios import compiled, data, fit, mlp, proxprop

from keras_proxprop import ProxProp, RowAdam, ScheduleFreeAdam, summary

optimizers = keras.optimizers
callbacks = keras.callbacks


def multi():
    by_path = {"last/.*": optimizers.SGD(0.1)}
    return optimizers.MultiOptimizer(optimizers.OptimizerMap(optimizers.Adam(0.02), by_path))


def with_function():
    first, other = optimizers.Adam(0.02), optimizers.SGD(0.1)
    return optimizers.MultiOptimizer(lambda v: other if "last" in v.path else first)


def inside():
    return ProxProp(multi(), tau=1.0, memory=None)


CALLBACKS = {
    "schedule": lambda _: callbacks.LearningRateScheduler(lambda epoch, lr: lr / 2),
    "plateau": lambda _: callbacks.ReduceLROnPlateau("loss", 0.5, 0, min_delta=1e9),
    "stop": lambda _: callbacks.EarlyStopping("loss"),
    "checkpoint": lambda folder: callbacks.ModelCheckpoint(folder / "model.keras"),
    "weights": lambda folder: callbacks.ModelCheckpoint(
        folder / "m.weights.h5", save_weights_only=True
    ),
    "backup": lambda folder: callbacks.BackupAndRestore(folder / "backup"),
    "nan": lambda _: callbacks.TerminateOnNaN(),
    "csv": lambda folder: callbacks.CSVLogger(folder / "log.csv"),
    "board": lambda folder: callbacks.TensorBoard(folder, histogram_freq=1),
}


@pytest.mark.parametrize("new", [multi, inside], ids=["multi", "inside"])
@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks_do_with_a_multi_optimizer_inside_what_they_do_with_it_alone(
    name, new, tmp_path
):
    model = compiled(mlp(), new())
    history = fit(model, epochs=4, callbacks=[CALLBACKS[name](tmp_path)]).history
    assert history["loss"][-1] < history["loss"][0]
    rates = [float(o.learning_rate) for o in model.optimizer.optimizers]
    halvings = {"schedule": 4, "plateau": 3}.get(name, 0)
    assert sorted(rates) == pytest.approx([0.02 / 2**halvings, 0.1 / 2**halvings])
    if name == "checkpoint":
        other = keras.models.load_model(tmp_path / "model.keras")
        for each in (model, other):
            fit(each)
        assert_close_weights(weights_of(other), weights_of(model), 1e-6)


def test_only_a_multi_optimizer_has_optimizers():
    assert not hasattr(proxprop(), "optimizers")


@pytest.mark.parametrize("scaled", [False, True])
def test_row_adam_takes_its_longer_steps_inside_of_a_multi_optimizer_too(scaled):
    ends = []
    for wrap in (lambda o: o, lambda o: optimizers.MultiOptimizer(optimizers.OptimizerMap(o))):
        optimizer = ProxProp(wrap(RowAdam(0.01)), tau=1.0, memory=None)
        if scaled:
            optimizer = optimizers.LossScaleOptimizer(optimizer)
        model = compiled(mlp(), optimizer)
        fit(model)
        ends.append(weights_of(model))
    assert_close_weights(*ends, 1e-6)


@pytest.mark.parametrize("form", ["map", "function"])
@pytest.mark.parametrize("trained", [False, True])
def test_summary_tells_the_rate_of_the_optimizer_that_makes_a_layers_steps(form, trained):
    first, last = ScheduleFreeAdam(), optimizers.SGD(0.1)
    by_path = optimizers.OptimizerMap(first, {"last/.*": last})
    choice = {"map": by_path, "function": lambda v: last if "last" in v.path else first}
    model = compiled(mlp(), ProxProp(optimizers.MultiOptimizer(choice[form])))
    if trained:
        fit(model)
    alone = ProxProp(ScheduleFreeAdam())
    rates = [r.rate for r in summary(model, optimizer=alone, print_fn=str)]
    assert 1.0 not in rates
    assert [r.rate for r in summary(model, print_fn=str)] == [*rates[:-1], 1.0]


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("form", ["map", "default", "function", "scaled"])
def test_a_multi_optimizer_around_says_to_put_it_inside_before_any_weight_changed(form, eager):
    new = {
        # Adam's weights come first, and would step before ours could refuse.
        "map": lambda: optimizers.OptimizerMap(optimizers.Adam(), {"last/.*": proxprop()}),
        "default": lambda: optimizers.OptimizerMap(proxprop(), {"hid.*": optimizers.Adam()}),
        "scaled": lambda: optimizers.OptimizerMap(proxprop()),
    }
    chosen = optimizers.Adam(), proxprop()
    choice = new.get(form, lambda: lambda v: chosen["last" in v.path])()
    optimizer = optimizers.MultiOptimizer(choice)
    if form == "scaled":
        optimizer = optimizers.LossScaleOptimizer(optimizer)
    model = mlp()
    before = weights_of(model)
    with pytest.raises(ValueError, match=r"ProxProp\(MultiOptimizer\(\.\.\.\)\)") as raised:
        fit(compiled(model, optimizer, run_eagerly=eager))
    assert "exclude" in str(raised.value)
    assert_equal_weights(weights_of(model), before)


@pytest.mark.parametrize("new", [multi, with_function], ids=["map", "function"])
def test_a_multi_optimizer_inside_trains_eagerly_with_loss_scaling(new):
    optimizer = optimizers.LossScaleOptimizer(ProxProp(new(), tau=1.0, memory=None))
    model = compiled(mlp(), optimizer, run_eagerly=True)
    loss = fit(model, *data(), epochs=4).history["loss"]
    assert loss[-1] < loss[0]
