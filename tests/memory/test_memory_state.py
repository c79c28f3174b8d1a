"""What curvature memory keeps: saved, loaded, never exported; and how it is asked for."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close_weights, assert_equal_weights
from memory_cases import convnet, data, restored, state, train

from keras_proxprop import CurvatureMemory, ProxProp, machine
from keras_proxprop.memory.averaged_gram import KEPT
from keras_proxprop.solvers import ConjugateGradient


@pytest.mark.parametrize("way", ["keras", "weights", "checkpoint"])
def test_state_is_saved_and_training_goes_on_alike(way, tmp_path):
    model = convnet()
    train(model)
    other = restored(way, model, convnet, tmp_path)
    for each in (model, other):
        train(each)
    assert len(state(other)) == len(state(model))
    assert_close_weights(state(other), state(model), 1e-6)


@pytest.mark.parametrize("scaled", [False, True], ids=["alone", "with loss scale"])
def test_state_that_was_begun_on_a_gpu_goes_on_elsewhere(scaled, monkeypatch):
    def net():
        layers = [keras.layers.Dense(units) for units in (400, 400, 2)]
        model = keras.Sequential([keras.Input((400,)), *layers])
        optimizer = keras.optimizers.LossScaleOptimizer(ProxProp()) if scaled else ProxProp()
        model.compile(optimizer, "mse", jit_compile=False)
        return model

    def kept(model):
        proxprop = model.optimizer.inner_optimizer if scaled else model.optimizer
        return len(proxprop._curvatures.variables)

    x, y = np.random.default_rng(0).normal(size=(64, 400)), np.zeros((64, 2))
    on_gpu, elsewhere, other, store, again = net(), net(), net(), {}, {}
    with monkeypatch.context() as patched:
        patched.setattr(machine, "of_device", lambda *_: machine.GPU)
        on_gpu.fit(x, y, verbose=0)
        on_gpu.optimizer.save_own_variables(store)
    # Both hidden layers have memory there, and on a CPU they have none.
    elsewhere.fit(x, y, verbose=0)
    assert (kept(on_gpu), kept(elsewhere)) == (2 * len(KEPT), 0)
    other.optimizer.build(other.trainable_variables)
    other.optimizer.load_own_variables(store)
    other.fit(x, y, verbose=0)
    assert kept(other) == 2 * len(KEPT)
    other.optimizer.save_own_variables(again)
    assert again["curvature_on_gpu"] and again.keys() == store.keys()


def test_saved_state_of_another_shape_is_not_taken_over_and_said_so(tmp_path):
    model = convnet()
    train(model)
    store = {}
    model.optimizer.save_own_variables(store)
    # What starts anew, all else being equal.
    new = {k: np.zeros_like(v) if "curvature_0" in k else v for k, v in store.items()}
    for name in ("average", "inverse"):
        store[f"curvature_0_{name}"] = np.ones((2, 2), "float32")
    other, alone = convnet(), convnet()
    other.optimizer.build(other.trainable_variables)
    other.optimizer.load_own_variables(store)
    with pytest.warns(UserWarning, match="Skipping variable loading for .curvature_0"):
        train(other)
    # What was not taken over is not saved either.
    alone.optimizer.build(alone.trainable_variables)
    alone.optimizer.load_own_variables(new)
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
        assert names[0] == names[1] and len(names[0]) == 3 * len(KEPT)
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


def test_a_state_from_before_the_first_step_forgets_what_was_kept():
    model = convnet()
    before = {}
    model.optimizer.build(model.trainable_variables)
    model.optimizer.save_own_variables(before)
    train(model)
    kept = model.optimizer._curvatures.variables
    assert all(np.any(v.numpy()) for v in kept)
    model.optimizer.load_own_variables(before)
    assert not any(np.any(v.numpy()) for v in kept)


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
