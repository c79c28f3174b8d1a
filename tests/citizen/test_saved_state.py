"""Every variable of the optimizer, by name, is after each way to save what it was before."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import in_turns
from scenarios import compiled, fit, inner, mlp, optimizer_state, proxprop, remembering

from keras_proxprop import CurvatureMemory, ProxProp

optimizers = keras.optimizers
LossScale = optimizers.LossScaleOptimizer


def adam(**kwargs):
    return optimizers.Adam(0.01, **kwargs)


def default(**kwargs):
    """The optimizer that is inside where none is named, and memory."""
    memory = CurvatureMemory(refresh_every=3, layers="all")
    return ProxProp(memory=memory, **kwargs)


OPTIMIZERS = {
    "adam": adam,
    "proxprop": proxprop,
    "memory": remembering,
    "default": default,
    "row adam": lambda **kwargs: ProxProp("rowadam", 0.01, memory=None, **kwargs),
}
OPTIONS = {
    "plain": {},
    "ema": {"use_ema": True, "ema_momentum": 0.9},
    "accumulation": {"gradient_accumulation_steps": 2},
}
# Keras's options make the same variables around any optimizer inside.
CASES = [("adam", "plain"), ("row adam", "plain")]
CASES += [(o, k) for o in ("proxprop", "memory", "default") for k in (*OPTIONS, "scaled")]
OURS = ("hand", "checkpoint of a checkpoint")


def new(name, option):
    if option == "scaled":
        return LossScale(OPTIMIZERS[name](), initial_scale=8.0, dynamic_growth_steps=2)
    return OPTIMIZERS[name](**OPTIONS[option])


def assert_same_state(optimizer, expected):
    found = optimizer_state(optimizer)
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def by_file(model, fresh, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def by_weights(model, fresh, folder):
    model.save_weights(folder / "m.weights.h5")
    fresh.optimizer.build(fresh.trainable_variables)
    fresh.load_weights(folder / "m.weights.h5")
    return fresh


def by_checkpoint(model, fresh, folder):
    # Before the first step, and before anything made the optimizer's variables.
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(folder / "c")
    status = tf.train.Checkpoint(model=fresh, optimizer=fresh.optimizer).restore(path)
    fresh.optimizer.build(fresh.trainable_variables)
    status.assert_existing_objects_matched()
    return fresh


def by_saved_model(model, fresh, folder):
    tf.saved_model.save(model, folder / "saved_model")
    # Where a SavedModel keeps its checkpoint, of which the model is the root.
    path = folder / "saved_model" / "variables" / "variables"
    tf.train.Checkpoint(fresh).restore(str(path))
    fresh.optimizer.build(fresh.trainable_variables)
    return fresh


def by_checkpoint_twice(model, fresh, folder):
    once = by_checkpoint(model, fresh, folder)
    optimizer = once.optimizer.from_config(once.optimizer.get_config())
    again = compiled(mlp(seed=8), optimizer, run_eagerly=True)
    return by_checkpoint(once, again, folder)


def by_hand(model, fresh, folder):
    store = {}
    model.optimizer.save_own_variables(store)
    fresh.set_weights(model.get_weights())
    fresh.optimizer.build(fresh.trainable_variables)
    fresh.optimizer.load_own_variables(store)
    return fresh


def by_backup(model, fresh, folder):
    class Stop(Exception):
        pass

    def fail(epoch, logs):
        raise Stop

    def backup():
        return keras.callbacks.BackupAndRestore(folder / "backup")

    # It is written at the end of an epoch, and the training is killed after it.
    killed = keras.callbacks.LambdaCallback(on_epoch_begin=lambda e, logs: e and fail(e, logs))
    with pytest.raises(Stop):
        fit(model, epochs=2, callbacks=[backup(), killed])
    seen = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: fail(epoch, logs),
    )
    with pytest.raises(Stop):
        fit(fresh, epochs=2, callbacks=[backup(), seen])
    return fresh


WAYS = {
    "keras": by_file,
    "weights": by_weights,
    "checkpoint": by_checkpoint,
    "saved model": by_saved_model,
    "checkpoint of a checkpoint": by_checkpoint_twice,
    "hand": by_hand,
    "backup": by_backup,
}


WAYS_OF_EACH = [
    (way, *case) for case, way in in_turns(CASES, WAYS) if case[0] != "adam" or way not in OURS
]


@pytest.mark.filterwarnings("error:Skipping")
@pytest.mark.parametrize(
    "way, name, option", WAYS_OF_EACH, ids=["-".join(case) for case in WAYS_OF_EACH]
)
def test_every_variable_of_an_optimizer_is_restored_by_name(way, name, option, tmp_path):
    model = compiled(mlp(), new(name, option), run_eagerly=True)
    # An odd number of batches: accumulation is in its middle, the scale has grown once.
    fit(model, epochs=1)
    fresh = compiled(mlp(seed=9), new(name, option), run_eagerly=True)
    other = WAYS[way](model, fresh, tmp_path)
    state = optimizer_state(model.optimizer)
    # It does say something: steps were counted, the scale is not what it began with.
    assert int(inner(model.optimizer)._iterations) >= 3
    if option == "scaled":
        assert float(model.optimizer.dynamic_scale) > 8.0
    if name in ("memory", "default"):
        assert any("curvature" in key and np.any(state[key]) for key in state)
    assert_same_state(other.optimizer, state)
    if way != "backup":  # There Keras's `fit` goes on at the epoch that was begun.
        for each in (model, other):
            fit(each)
        assert_same_state(other.optimizer, optimizer_state(model.optimizer))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_without_variables_yet_says_that_it_takes_none(name):
    model = compiled(mlp(), OPTIMIZERS[name]())
    fit(model)
    store = {}
    model.optimizer.save_own_variables(store)
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        OPTIMIZERS[name]().load_own_variables(store)


def test_the_weights_of_an_optimizer_with_memory_are_set_from_another_ones():
    model, other = (compiled(mlp(), remembering()) for _ in range(2))
    fit(model, epochs=2)
    other.optimizer.build(other.trainable_variables)
    other.optimizer.set_weights([v.numpy() for v in model.optimizer.variables])
    variables = [
        {v.path.split("/")[-1]: v.numpy() for v in m.optimizer.variables}
        for m in (model, other)
    ]
    assert variables[0].keys() == variables[1].keys()
    for key in variables[0]:
        np.testing.assert_array_equal(variables[0][key], variables[1][key], err_msg=key)


def test_a_checkpoint_with_memory_that_is_restored_is_written_again_at_once(tmp_path):
    model = compiled(mlp(), remembering())
    fit(model)
    other = by_checkpoint_twice(model, compiled(mlp(seed=9), remembering()), tmp_path)
    assert_same_state(other.optimizer, optimizer_state(model.optimizer))
