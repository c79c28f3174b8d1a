"""Where refreshes are a lot of work, matrices take turns."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import MODES, assert_close, assert_close_weights, weights_of
from hypothesis import given
from hypothesis import strategies as st
from memory_cases import AveragedReference

from keras_proxprop import CurvatureMemory, ProxProp, machine
from keras_proxprop.memory.refresh import TURNS, turns_of

L = keras.layers
WIDTHS = (8, 7, 9)
# Layers in the order of their turns, that of their sizes.
IN_TURNS = (1, 0, 2)


@pytest.fixture
def little_at_once():
    with machine.used(dataclasses.replace(machine.CPU, at_once=1e-9)):
        yield


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(1e5, 1e11)), min_size=1, max_size=40))
def test_every_matrix_has_one_turn_and_no_turn_is_far_longer_than_others(matrices):
    sizes, prices = zip(*matrices)
    turns = turns_of(prices, sizes)
    assert sorted(i for turn in turns for i in turn) == list(range(len(sizes)))
    assert 1 <= len(turns) <= TURNS and all(turns)
    work = [sum(prices[i] for i in turn) for turn in turns]
    # Not all turns that were planned need have a matrix whose middle lies in them.
    planned = max(1, min(TURNS, int(sum(prices) / machine.CPU.at_once)))
    assert max(work) <= sum(prices) / planned + max(prices) * 1.01
    if sum(prices) < 2 * machine.CPU.at_once:
        assert len(turns) == 1
    # What is of one size is not scattered: it ends one turn and begins the next ones.
    turn_of = {i: number for number, turn in enumerate(turns) for i in turn}
    ordered = sorted(range(len(sizes)), key=lambda i: (turn_of[i], sizes[i]))
    assert [sizes[i] for i in ordered] == sorted(sizes)


def three_layers(**arguments):
    """Returns a model of three layers side by side, each of which has memory."""
    keras.utils.set_random_seed(3)
    inputs = [keras.Input((width,)) for width in WIDTHS]
    outputs = [L.Dense(2, use_bias=False)(x) for x in inputs]
    model = keras.Model(inputs, outputs)
    memory = CurvatureMemory(decay=0.7, refresh_every=12, layers="all")
    sgd = keras.optimizers.SGD(0.3)
    optimizer = ProxProp(sgd, final_layer="implicit", memory=memory)
    model.compile(optimizer, loss=["mse"] * 3, **arguments)
    return model


def batch(random, count=8):
    x = [np.float32(random.normal(size=(count, width)) + 0.3) for width in WIDTHS]
    return x, [np.float32(random.normal(size=(count, 2))) for _ in WIDTHS]


def refreshed(model):
    """Returns the steps of the last refreshes, in the layers' order."""
    states = model.optimizer._curvatures._states.values()
    found = {state.average.shape[0]: int(state.refreshed.numpy()) for state in states}
    return [found[width] for width in WIDTHS]


def schedule(steps, every):
    """Returns of every step which layers are refreshed, as a set."""
    last, found = dict.fromkeys(IN_TURNS, 0), [set(IN_TURNS)]
    for step in range(1, steps):
        allowed = min(max(step // 4, 1), every)
        due = {i for i in IN_TURNS if step - last[i] >= allowed}
        if allowed >= 3 and due:
            due = {max(IN_TURNS, key=lambda i: step - last[i])}
        last.update(dict.fromkeys(due, step))
        found.append(due)
    return found


@pytest.mark.parametrize("mode", ["graph", "eager", "xla"])
def test_steps_are_those_of_averages_that_are_refreshed_in_turn(mode, float64, little_at_once):
    model = three_layers(**MODES[mode])
    references = [AveragedReference(0.7, 12, "auto") for _ in WIDTHS]
    random = np.random.default_rng(0)
    last = [0] * 3
    for step, due in enumerate(schedule(60, 12)):
        x, y = batch(random)
        before = model.get_weights()
        model.train_on_batch(x, y)
        for i, (a, target, kernel) in enumerate(zip(x, y, before)):
            a = np.float64(a)
            gradient = a.T @ (a @ kernel - target) * 2 / target.size
            p = references[i].direction(step, a, gradient, i in due)
            assert_close(model.get_weights()[i], kernel - 0.3 * p, 1e-9)
        last = [step if i in due else was for i, was in enumerate(last)]
        assert refreshed(model) == last


def test_what_is_not_there_yet_and_a_count_that_is_set_back_wait_for_no_turn(little_at_once):
    model, random = three_layers(jit_compile=False), np.random.default_rng(1)
    for _ in range(16):
        model.train_on_batch(*batch(random))
    assert len(set(refreshed(model))) == 3
    states = list(model.optimizer._curvatures._states.values())
    # As of a layer that is met for the first time.
    for state in (states[0], states[2]):
        for variable in state.variables:
            variable.assign(tf.zeros_like(variable))
    model.train_on_batch(*batch(random))
    assert all(float(state.weight.numpy()) > 0 for state in states)
    model.optimizer._iterations.assign(0)
    model.train_on_batch(*batch(random))
    assert refreshed(model) == [0, 0, 0]


def test_a_step_that_is_not_finite_refreshes_none(little_at_once):
    model, random = three_layers(jit_compile=False), np.random.default_rng(1)
    model.train_on_batch(*batch(random))
    kept = [v.numpy() for v in model.optimizer._curvatures.variables]
    x, y = batch(random)
    y[1][0] = np.nan
    model.train_on_batch(x, y)
    for variable, was in zip(model.optimizer._curvatures.variables, kept):
        np.testing.assert_array_equal(variable.numpy(), was)


def test_a_training_that_is_saved_between_turns_goes_on_alike(little_at_once, tmp_path):
    model, random = three_layers(jit_compile=False), np.random.default_rng(2)
    batches = [batch(random) for _ in range(20)]
    for each in batches[:14]:
        model.train_on_batch(*each)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for each in batches[14:]:
        model.train_on_batch(*each)
        again.train_on_batch(*each)
    assert refreshed(again) == refreshed(model)
    assert_close_weights(weights_of(again), weights_of(model), 1e-6)
