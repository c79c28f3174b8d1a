"""What curvature memory keeps: saved, loaded, never exported; and how it is asked for."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close_weights
from memory_cases import convnet, data, state, train

from keras_proxprop import CurvatureMemory, ProxProp
from keras_proxprop.solvers import ConjugateGradient


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
    model.optimizer._curvatures._saved = {}
    saved = {k: np.ones((2, 2)) for k in model.optimizer._curvatures.save()}
    other = convnet()
    other.optimizer.build(other.trainable_variables)
    other.optimizer._curvatures.load(saved)
    with pytest.warns(UserWarning, match="Skipping variable loading for .curvature_0"):
        train(other)


def test_a_state_from_before_the_first_step_forgets_what_was_kept():
    model = convnet()
    before = {}
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
