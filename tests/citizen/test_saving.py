"""A model compiled with ProxProp is saved, loaded and copied as one with Adam."""

import copy
import json
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_equal_weights, weights_of
from processes import python
from scenarios import compiled, fit, mlp, proxprop, state, with_both
from test_arguments import CASES, FORMS, Own

from keras_proxprop import ProxProp, solvers

LossScale = keras.optimizers.LossScaleOptimizer
Decay = keras.optimizers.schedules.ExponentialDecay


def trained(new):
    model = compiled(mlp(), new(use_ema=True, ema_momentum=0.9))
    fit(model, epochs=2)
    return model


def assert_trains_on_alike(model, other):
    assert_equal_weights(state(other), state(model))
    for each in (model, other):
        fit(each)
    assert_equal_weights(state(other), state(model))


def by_model_file(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def by_weights_file(model, folder):
    model.save_weights(folder / "w.weights.h5")
    other = compiled(mlp(seed=9), model.optimizer.from_config(model.optimizer.get_config()))
    other.optimizer.build(other.trainable_variables)
    other.load_weights(folder / "w.weights.h5")
    return other


def by_checkpoint(model, folder):
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(folder / "c")
    other = compiled(mlp(seed=9), model.optimizer.from_config(model.optimizer.get_config()))
    other.optimizer.build(other.trainable_variables)
    checkpoint = tf.train.Checkpoint(model=other, optimizer=other.optimizer)
    checkpoint.restore(path).assert_existing_objects_matched()
    return other


COPIES = {
    ".keras": by_model_file,
    "weights": by_weights_file,
    "checkpoint": by_checkpoint,
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
    "deepcopy": lambda model, _: copy.deepcopy(model),
}


@pytest.mark.parametrize("way", COPIES)
@with_both
def test_a_copy_has_the_optimizer_state_and_trains_on_alike(new, way, tmp_path):
    model = trained(new)
    assert_trains_on_alike(model, COPIES[way](model, tmp_path))


@with_both
def test_a_copy_with_loss_scaling_trains_on_alike(new, tmp_path):
    model = compiled(mlp(), LossScale(new(), dynamic_growth_steps=2))
    fit(model, epochs=2)
    assert_trains_on_alike(model, COPIES[".keras"](model, tmp_path))


@with_both
def test_a_file_holds_the_optimizers_state_once(new, tmp_path):
    model = compiled(mlp(units=4096), new())
    fit(model)
    model.save(tmp_path / "model.keras")
    weights = 4 * sum(np.prod(v.shape) for v in model.weights)
    # The weights themselves, and Adam's two moments.
    assert 3 * weights < (tmp_path / "model.keras").stat().st_size < 3.3 * weights


@pytest.mark.parametrize("saved, loading", [("adam", ProxProp()), (ProxProp(), "adam")])
def test_another_optimizers_state_is_not_loaded_and_said_so(saved, loading, tmp_path):
    model = compiled(mlp(), saved)
    fit(model)
    model.save_weights(tmp_path / "w.weights.h5")
    other = compiled(mlp(seed=9), loading)
    other.optimizer.build(other.trainable_variables)
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        other.load_weights(tmp_path / "w.weights.h5")
    assert_equal_weights(weights_of(other), weights_of(model))
    assert int(other.optimizer.iterations) == 0


@with_both
def test_a_clone_starts_anew_and_trains(new):
    model = trained(new)
    clone = keras.models.clone_model(model)
    assert type(clone.optimizer) is type(model.optimizer)
    assert clone.optimizer is not model.optimizer and clone.optimizer.iterations == 0
    assert clone.optimizer.get_config() == model.optimizer.get_config()
    loss = fit(clone, epochs=10).history["loss"]
    assert loss[-1] < loss[0]


FULL = {
    "inner_optimizer": keras.optimizers.SGD(Decay(0.1, 10, 0.9), 0.9, clipnorm=1.0),
    "tau": Decay(1.0, 100, 0.5),
    "solver": solvers.ConjugateGradient(7),
    "final_layer": "implicit",
    "exclude": ["last"],
    "name": "mine",
}


@pytest.mark.parametrize("arguments", [{}, {"tau": 0.1}, FULL], ids=["default", "tau", "full"])
def test_the_config_is_plain_data_and_makes_the_same_optimizer(arguments):
    config = json.dumps(ProxProp(**arguments).get_config())
    again = ProxProp.from_config(json.loads(config))
    assert json.dumps(again.get_config()) == config
    assert again.get_config()["final_layer"] == arguments.get("final_layer", "explicit")


@pytest.mark.parametrize("argument, form", CASES, ids=[f"{a}-{f}" for a, f in CASES])
def test_a_model_file_keeps_every_argument_in_every_form(argument, form, tmp_path):
    model = compiled(mlp(), ProxProp(**{argument: FORMS[argument][form]()}))
    # Keras warns of every optimizer that was saved before it was built.
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    other = keras.models.load_model(tmp_path / "model.keras", {"Own": Own})
    assert other.optimizer.get_config() == model.optimizer.get_config()
    kinds = [e for e in model.optimizer.exclude if isinstance(e, type)]
    assert [e for e in other.optimizer.exclude if isinstance(e, type)] == kinds


@pytest.mark.parametrize("make", ["deserialize", "get", "compile"])
def test_keras_makes_the_optimizer_from_its_serialized_form(make):
    form = keras.optimizers.serialize(proxprop(tau=0.25, weight_decay=0.1))
    if make == "compile":
        optimizer = compiled(mlp(), form).optimizer
    else:
        optimizer = getattr(keras.optimizers, make)(form)
    assert isinstance(optimizer, ProxProp)
    assert float(optimizer.tau) == 0.25 and optimizer.weight_decay == 0.1


@pytest.mark.parametrize("way", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@with_both
def test_an_optimizer_alone_is_copied_with_its_config(new, way):
    optimizer = new(0.25, clipnorm=2.0)
    assert way(optimizer).get_config() == optimizer.get_config()


def test_a_file_opened_without_this_package_says_what_to_import(tmp_path):
    compiled(mlp(), proxprop()).save(tmp_path / "model.keras")
    message = python(
        """
        import importlib, re, sys
        import keras
        assert not any(name.startswith("keras_proxprop") for name in sys.modules)
        try:
            keras.models.load_model(sys.argv[1])
        except TypeError as e:
            print(e)
            assert "make sure they are all imported" in str(e)
            importlib.import_module(re.search("'module': '([^']+)'", str(e)).group(1))
        model = keras.models.load_model(sys.argv[1])
        assert type(model.optimizer).__name__ == "ProxProp"
        """,
        tmp_path / "model.keras",
    )
    assert "ProxProp" in message and "'module': 'keras_proxprop" in message


def test_a_file_opened_without_compiling_needs_no_package(tmp_path):
    model = trained(proxprop)
    model.save(tmp_path / "model.keras")
    output = python(
        """
        import sys
        sys.modules["keras_proxprop"] = None
        import keras, numpy as np
        model = keras.models.load_model(sys.argv[1], compile=False)
        print(model.predict(np.ones((1, 5)), verbose=0).tolist())
        """,
        tmp_path / "model.keras",
    )
    np.testing.assert_allclose(json.loads(output), model(np.ones((1, 5))), rtol=1e-5)
