"""A batch whose loss or directions are not finite changes nothing, and callbacks see it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import MODES, assert_equal_weights, in_turns, weights_of
from processes import python
from scenarios import data, fit, optimizer_state, proxprop, remembering

from keras_proxprop import ImplicitGradientTape, ProxProp, RowAdam

LossScale = keras.optimizers.LossScaleOptimizer


def net():
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(6, "tanh"), keras.layers.BatchNormalization()]
    layers += [keras.layers.Dropout(0.1), keras.layers.Dense(2)]
    return keras.Sequential([keras.Input((5,)), *layers])


def broken(where, value):
    x, y = (a.copy() for a in data(8))
    if where == "x":
        x[3, 1] = value
    elif where == "y":
        y[3, 1] = value
    return x, y


def poisoned_loss(y, y_pred):
    """A loss that is not finite where its gradient is."""
    loss = tf.reduce_mean(tf.square(y - y_pred), axis=-1)
    return loss + tf.where(tf.reduce_any(y > 100.0), np.inf, 0.0)


OPTIMIZERS = {
    "proxprop": proxprop,
    "memory": remembering,
    "row adam": lambda: ProxProp(RowAdam(0.01)),
    "momentum": lambda: ProxProp("sgd", 0.1, momentum=0.9, weight_decay=0.1),
    "ema": lambda: proxprop(use_ema=True, ema_overwrite_frequency=2),
    "accumulation": lambda: proxprop(gradient_accumulation_steps=2),
    "clipped": lambda: proxprop(global_clipnorm=1.0),
    "implicit": lambda: proxprop(final_layer="implicit"),
    "cg": lambda: proxprop(solver="cg"),
}
BATCHES = {
    "nan input": lambda: broken("x", np.nan),
    "infinite input": lambda: broken("x", np.inf),
    "nan target": lambda: broken("y", np.nan),
    "infinite target": lambda: broken("y", np.inf),
    "infinite loss": lambda: broken("y", 200.0),
}


def compiled(optimizer, mode="graph"):
    model = net()
    model.compile(optimizer, loss=poisoned_loss, **MODES[mode])
    return model


def assert_unchanged(model, before):
    weights, state = before
    assert_equal_weights(weights_of(model), weights)
    found = optimizer_state(model.optimizer)
    scale = ("step_counter", "dynamic_scale")
    for key in (key for key in state if not key.endswith(scale)):
        np.testing.assert_array_equal(found[key], state[key], err_msg=key)
    # What memory was chosen for is settled, though nothing is kept yet.
    new = {key for key in found if np.any(found[key])} - {"curvature_batch_size"}
    assert new <= set(state)


def snapshot(model):
    return weights_of(model), optimizer_state(model.optimizer)


CASES = [(name, batch, 1) for name, batch in in_turns(OPTIMIZERS, BATCHES, rounds=2)]
# Before the first step, too: memory has nothing yet.
CASES += [("memory", batch, 0) for batch in BATCHES] + [("row adam", "nan input", 0)]


@pytest.mark.parametrize("name, batch, trained", CASES)
def test_a_batch_that_is_not_finite_changes_nothing(name, batch, trained):
    model = compiled(OPTIMIZERS[name](), "graph" if batch == "nan input" else "eager")
    model.optimizer.build(model.trainable_variables)
    if trained:
        fit(model)
    before = snapshot(model)
    stop = keras.callbacks.TerminateOnNaN()
    # The first epoch is the last.
    loss = fit(model, *BATCHES[batch](), epochs=2, callbacks=[stop]).history["loss"]
    if batch == "infinite input":
        # Its tanh is 1, and its direction not a number.
        assert np.isfinite(loss).all()
    else:
        assert len(loss) == 1 and not np.isfinite(loss[0])
    # The average that `fit` puts in the weights' place at its end is no step.
    if name != "ema":
        assert_unchanged(model, before)


@pytest.mark.parametrize(
    "name, batch", [("memory", "nan input"), ("momentum", "infinite target")]
)
def test_under_xla_it_changes_nothing_either(name, batch):
    model = compiled(OPTIMIZERS[name](), "xla")
    fit(model)
    before = snapshot(model)
    fit(model, *BATCHES[batch]())
    assert_unchanged(model, before)


@pytest.mark.parametrize(
    "name, batch", [("proxprop", "nan input"), ("memory", "infinite target")]
)
def test_with_loss_scaling_only_the_scale_changes(name, batch):
    model = compiled(LossScale(OPTIMIZERS[name](), initial_scale=8.0))
    fit(model)
    before, scale = snapshot(model), float(model.optimizer.dynamic_scale)
    fit(model, *BATCHES[batch]())
    assert_unchanged(model, before)
    assert float(model.optimizer.dynamic_scale) == scale / 2


@pytest.mark.parametrize("name", ["proxprop", "memory", "accumulation", "ema"])
def test_training_goes_on_as_if_the_batch_had_not_been(name):
    x, y = data()
    bad = [np.concatenate([part, extra]) for part, extra in zip((x, y), broken("x", np.nan))]
    order = np.r_[0:8, 24:32, 8:24]
    ends = []
    for xs, ys in ((x, y), (bad[0][order], bad[1][order])):
        model = compiled(OPTIMIZERS[name](), "graph" if name == "memory" else "eager")
        # Its seed moves on with every batch.
        model.layers[2].rate = 0.0
        fit(model, xs, ys)
        ends.append(weights_of(model) + [*optimizer_state(model.optimizer).values()])
    assert_equal_weights(*ends)


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
@pytest.mark.parametrize("new", [proxprop, remembering])
def test_in_a_loop_of_ones_own_it_changes_nothing(new, wrap):
    model, optimizer = net(), new()
    optimizer.build(model.trainable_variables)

    @wrap
    def step(x, y):
        with ImplicitGradientTape(model, **optimizer.step_arguments()) as tape:
            loss = tf.reduce_mean(tf.square(y - model(x)))
        directions = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(directions, model.trainable_variables))
        return loss

    step(*map(tf.constant, data(8)))
    before = weights_of(model), optimizer_state(optimizer)
    assert not np.isfinite(step(*map(tf.constant, broken("x", np.nan))))
    assert_equal_weights(weights_of(model), before[0])
    assert_equal_weights([*optimizer_state(optimizer).values()], [*before[1].values()])


def test_directions_that_were_made_finite_by_hand_are_a_step():
    model, optimizer = net(), ProxProp("sgd", 0.1, tau=1.0, memory=None)
    with ImplicitGradientTape(model) as tape:
        loss = tf.reduce_mean(tf.square(model(broken("x", np.nan)[0])))
    directions = tape.gradient(loss, model.trainable_variables)
    before = weights_of(model)
    cleaned = [tf.where(tf.math.is_finite(d), d, 1.0) for d in directions]
    optimizer.apply_gradients(zip(cleaned, model.trainable_variables))
    assert any((a != b).any() for a, b in zip(weights_of(model), before))


REPLICAS = """
import keras, numpy as np, tensorflow as tf
from helpers import assert_equal_weights, weights_of
from logical_devices import mirrored
from scenarios import data, optimizer_state, proxprop, remembering
from test_not_finite import assert_unchanged, net, snapshot

strategy = mirrored(2)
for new in (
    proxprop,
    remembering,
    lambda: keras.optimizers.LossScaleOptimizer(remembering()),
):
    with strategy.scope():
        model = net()
        model.compile(new(), loss="mse", jit_compile=False)
    x, y = data(16)
    model.fit(x, y, batch_size=8, verbose=0, shuffle=False)
    before = snapshot(model)
    for row in (1, 6):
        # One replica's half of the batch.
        bad = x[:8].copy()
        bad[row] = np.nan
        model.fit(bad, y[:8], batch_size=8, verbose=0, shuffle=False)
        assert_unchanged(model, before)
    loss = model.fit(x, y, batch_size=8, verbose=0, shuffle=False).history["loss"]
    assert np.isfinite(loss).all()
    assert any((a != b).any() for a, b in zip(weights_of(model), before[0]))
print("unchanged")
"""


def test_what_is_not_finite_on_one_replica_is_a_step_on_none():
    assert "unchanged" in python(REPLICAS)
