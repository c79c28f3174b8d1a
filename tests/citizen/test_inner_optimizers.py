"""Every Keras optimizer, with every option of Keras's, steps with implicit directions."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close_weights, assert_equal_weights, weights_of
from scenarios import compiled, data, fit, mlp, proxprop, with_both

from keras_proxprop import ImplicitGradientTape, ProxProp

optimizers = keras.optimizers
SCHEDULE = {"initial_learning_rate": 0.05, "decay_steps": 2, "decay_rate": 0.3}

BUILT_IN = {
    "adadelta": lambda **k: optimizers.Adadelta(1.0, **k),
    "adafactor": lambda **k: optimizers.Adafactor(0.01, **k),
    "adagrad": lambda **k: optimizers.Adagrad(0.01, **k),
    "adam": lambda **k: optimizers.Adam(0.01, amsgrad=True, **k),
    "adamax": lambda **k: optimizers.Adamax(0.01, **k),
    "adamw": lambda **k: optimizers.AdamW(0.01, **k),
    "ftrl": lambda **k: optimizers.Ftrl(0.01, **k),
    "lamb": lambda **k: optimizers.Lamb(0.01, **k),
    "lion": lambda **k: optimizers.Lion(0.01, **k),
    "muon": lambda **k: optimizers.Muon(0.01, **k),
    "nadam": lambda **k: optimizers.Nadam(0.01, **k),
    "rmsprop": lambda **k: optimizers.RMSprop(0.01, centered=True, **k),
    "schedule_free_adamw": lambda **k: optimizers.ScheduleFreeAdamW(0.01, **k),
    "the paper's sgd": lambda **k: optimizers.SGD(1.0, momentum=0.95, nesterov=True, **k),
    "multi": lambda **k: optimizers.MultiOptimizer(
        optimizers.OptimizerMap(optimizers.Adam(0.01), {"last/.*": optimizers.SGD(0.1)})
    ),
}
OPTIONS = {
    "weight_decay": {"weight_decay": 0.1},
    "clipnorm": {"clipnorm": 1e-3},
    "global_clipnorm": {"global_clipnorm": 1e-3},
    "clipvalue": {"clipvalue": 1e-4},
    "use_ema": {"use_ema": True, "ema_momentum": 0.5},
    "ema_overwrite": {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
    "accumulation": {"gradient_accumulation_steps": 2},
    "loss_scale_factor": {"loss_scale_factor": 64.0},
    "schedule": {"learning_rate": optimizers.schedules.ExponentialDecay(**SCHEDULE)},
}


def steps_by_hand(optimizer, tau=1.0, epochs=2):
    """The weights after steps of a Keras optimizer with the tape's directions."""
    model = mlp()
    x, y = data()
    for batch in epochs * [slice(i, i + 8) for i in (0, 8, 16)]:
        with ImplicitGradientTape(model, tau) as tape:
            loss = tf.reduce_mean(tf.square(y[batch] - model(x[batch])))
            loss = optimizer.scale_loss(loss)
        directions = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(directions, model.trainable_variables)
    optimizer.finalize_variable_values(model.trainable_variables)
    return weights_of(model)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_optimizer_steps_with_the_directions(name):
    model = compiled(mlp(), ProxProp(BUILT_IN[name](), tau=0.05, memory=None))
    # Here, since ScheduleFreeAdamW loses its start where `fit` builds it in a graph.
    model.optimizer.build(model.trainable_variables)
    fit(model, epochs=2)
    assert_close_weights(weights_of(model), steps_by_hand(BUILT_IN[name](), 0.05), 1e-4)


def test_no_built_in_optimizer_was_forgotten():
    wrappers = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer"}
    exported = {n for n, o in vars(optimizers).items() if isinstance(o, type)}
    exported = {
        n for n in exported if issubclass(getattr(optimizers, n), optimizers.Optimizer)
    }
    assert exported - wrappers <= {type(new()).__name__ for new in BUILT_IN.values()}


@pytest.mark.parametrize("place", ["inner", "proxprop"])
@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_of_keras_means_the_same_wherever_it_is_given(name, place):
    options = {"learning_rate": 0.01, **OPTIONS[name]}
    if place == "inner":
        inner = optimizers.SGD(**options, momentum=0.9)
        optimizer = ProxProp(inner, tau=1.0, memory=None)
    else:
        optimizer = ProxProp("sgd", tau=1.0, memory=None, **options, momentum=0.9)
    model = compiled(mlp(), optimizer, run_eagerly=place == "proxprop")
    fit(model, epochs=2)
    by_hand = steps_by_hand(optimizers.SGD(**options, momentum=0.9))
    assert_close_weights(weights_of(model), by_hand, 1e-5)
    # The option does something, or the comparison says nothing.
    if name != "loss_scale_factor":
        without = steps_by_hand(optimizers.SGD(0.01, momentum=0.9))
        assert any(not np.allclose(a, b, rtol=1e-4) for a, b in zip(by_hand, without))


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_given_to_proxprop_is_the_inner_optimizers_and_is_in_the_config(name):
    optimizer = ProxProp.from_config(
        ProxProp("adam", **{"learning_rate": 0.001, **OPTIONS[name]}).get_config()
    )
    inner = optimizer.inner_optimizer.get_config()
    expected = optimizers.Adam(**OPTIONS[name]).get_config()
    assert {**inner, "name": None} == {**expected, "name": None}
    for option, value in expected.items():
        if option in optimizers.Optimizer(0.1).get_config() and "rate" not in option:
            assert option == "name" or getattr(optimizer, option) == value


def test_an_option_is_set_on_both_at_once():
    optimizer = ProxProp("adam", clipnorm=1.0)
    optimizer.clipnorm, optimizer.inner_optimizer.weight_decay = 2.0, 0.1
    assert optimizer.inner_optimizer.clipnorm == 2.0 and optimizer.weight_decay == 0.1


def test_options_beside_an_instance_are_refused():
    with pytest.raises(ValueError, match="weight_decay.*pass them where it is made, to `Adam"):
        ProxProp(optimizers.Adam(), weight_decay=0.1)


@with_both
def test_variables_are_excluded_from_weight_decay(new):
    model = mlp()
    optimizer = new(weight_decay=0.5, learning_rate=0.1)
    hidden, last = model.get_layer("hidden"), model.get_layer("last")
    optimizer.exclude_from_weight_decay(var_list=[hidden.kernel], var_names=["bias"])
    x, y = np.zeros((8, 5), "float32"), np.zeros((8, 2), "float32")
    before = hidden.kernel.numpy(), last.kernel.numpy()
    hidden.bias.assign(np.zeros(6))
    compiled(model, optimizer).fit(x, y, batch_size=8, verbose=0)
    # Nothing but weight decay moves them: the inputs and the loss are zero.
    np.testing.assert_array_equal(hidden.kernel, before[0])
    np.testing.assert_allclose(last.kernel, 0.95 * before[1], rtol=1e-6)


@with_both
def test_apply_gradients_returns_the_iterations(new):
    model, optimizer = mlp(), new()
    with ImplicitGradientTape(model) as tape:
        loss = tf.reduce_sum(model(data()[0]))
    directions = tape.gradient(loss, model.trainable_variables)
    assert int(optimizer.apply_gradients(zip(directions, model.trainable_variables))) == 1
    assert int(optimizer.iterations) == 1


@with_both
def test_iterations_count_updates_under_accumulation(new):
    model = compiled(mlp(), new(gradient_accumulation_steps=3))
    fit(model, epochs=2)
    assert int(model.optimizer.iterations) == 2


@with_both
def test_a_learning_rate_schedule_is_followed_and_not_settable(new):
    schedule = optimizers.schedules.PiecewiseConstantDecay([1, 2], [0.1, 0.2, 0.3])
    model = compiled(mlp(), new(schedule))
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(
            float(model.optimizer.learning_rate)
        )
    )
    fit(model, callbacks=[watch])
    np.testing.assert_allclose(seen, [0.1, 0.2, 0.3])
    with pytest.raises(TypeError, match="not settable"):
        model.optimizer.learning_rate = 0.5


def test_a_tau_schedule_of_the_iterations_is_followed_in_fit():
    schedule = optimizers.schedules.PiecewiseConstantDecay([0, 1], [1.0, 0.1, 0.01])
    model, reference = mlp(), mlp()
    compiled(model, ProxProp("sgd", 0.1, tau=schedule, memory=None))
    fit(model)
    for i, tau in enumerate((1.0, 0.1, 0.01)):
        xy = [a[8 * i : 8 * i + 8] for a in data()]
        fit(compiled(reference, ProxProp("sgd", 0.1, tau=tau, memory=None)), *xy)
    assert_close_weights(weights_of(model), weights_of(reference), 1e-6)


@with_both
def test_the_optimizers_weights_are_set_from_those_of_another(new):
    model, other = compiled(mlp(), new()), compiled(mlp(), new())
    fit(model, epochs=2)
    other.set_weights(model.get_weights())
    other.optimizer.build(other.trainable_variables)
    other.optimizer.set_weights([v.numpy() for v in model.optimizer.variables])
    fit(model), fit(other)
    assert_equal_weights(weights_of(other), weights_of(model))


def test_proxprop_takes_no_steps_inside_of_an_optimizer_that_it_cannot_see():
    multi = optimizers.MultiOptimizer(optimizers.OptimizerMap(proxprop()))
    with pytest.raises(ValueError, match="MultiOptimizer"):
        fit(compiled(mlp(), multi))
