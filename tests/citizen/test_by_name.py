"""Keras knows ProxProp by name, as it knows its own optimizers."""

import keras
import pytest
from processes import python
from scenarios import compiled, fit, mlp

from keras_proxprop import ProxProp, RowAdam

optimizers = keras.optimizers


@pytest.mark.parametrize("name", ["proxprop", "ProxProp", "PROXPROP"])
def test_a_name_makes_the_default(name):
    found = optimizers.get(name)
    assert type(found) is ProxProp
    assert {**found.get_config(), "name": 0} == {**ProxProp().get_config(), "name": 0}
    model = compiled(mlp(), name)
    loss = fit(model, epochs=3).history["loss"]
    assert type(model.optimizer) is ProxProp and loss[-1] < loss[0]


@pytest.mark.parametrize("name", ["proxprop", "ProxProp"])
@pytest.mark.parametrize("make", [optimizers.get, optimizers.deserialize])
def test_a_config_with_the_name_makes_it_with_the_arguments(make, name):
    config = {"tau": 0.25, "inner_optimizer": "sgd", "exclude": "last", "learning_rate": 0.5}
    form = {"class_name": name, "config": config}
    found = make(form)
    assert type(found) is ProxProp and float(found.tau) == 0.25
    assert type(found.inner_optimizer) is optimizers.SGD
    assert float(found.learning_rate) == 0.5 and list(found.exclude) == ["last"]
    assert type(compiled(mlp(), {"class_name": name, "config": {}}).optimizer) is ProxProp


@pytest.mark.parametrize("name", ["rowadam", "RowAdam"])
def test_row_adam_has_its_name_too(name):
    assert type(optimizers.get(name)) is RowAdam
    assert type(ProxProp(name, 0.5).inner_optimizer) is RowAdam


def test_a_proxprop_in_a_proxprop_is_refused_by_name_too():
    with pytest.raises(ValueError, match="`inner_optimizer`"):
        ProxProp("proxprop")


def test_a_model_compiled_by_name_is_saved_and_loaded(tmp_path):
    model = compiled(mlp(), "proxprop")
    fit(model)
    model.save(tmp_path / "model.keras")
    other = keras.models.load_model(tmp_path / "model.keras")
    assert other.optimizer.get_config() == model.optimizer.get_config()


def test_names_are_known_as_soon_as_the_package_is_imported():
    code = """
    import keras
    import keras_proxprop
    assert type(keras.optimizers.get("proxprop")).__name__ == "ProxProp"
    """
    python(code)
