"""Loading a file or a config runs no code of its author's."""

import copy
import json
import sys
import zipfile

import keras
import pytest
from scenarios import compiled, fit, mlp

from keras_proxprop import CurvatureMemory, ProxProp, solvers

TRAP = """
import pathlib
pathlib.Path(__file__).with_suffix(".ran").touch()


class Trap:
    def __init__(self, *args, **kwargs):
        pathlib.Path(__file__).with_suffix(".made").touch()

    @classmethod
    def from_config(cls, config):
        return cls()

    def get_config(self):
        return {}


def trap(*args, **kwargs):
    Trap()
"""


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module that would leave a trace if it were imported, or anything in it called."""
    (tmp_path / "trapmodule.py").write_text(TRAP)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    assert "trapmodule" not in sys.modules
    assert {p.suffix for p in tmp_path.glob("trapmodule*")} == {".py"}


# As `keras.saving` writes a lambda: marshalled code.
LAMBDA = {
    "class_name": "__lambda__",
    "config": {"value": ["4wEAAAAAAAAAAAAAAAE=", None, None]},
}
FORMS = {
    "class": {"module": "trapmodule", "class_name": "Trap", "config": {}},
    "registered": {
        "module": "trapmodule",
        "class_name": "Trap",
        "config": {},
        "registered_name": "trapmodule>Trap",
    },
    "function": {"module": "trapmodule", "class_name": "function", "config": "trap"},
    "no config": {"module": "trapmodule", "class_name": "Trap", "registered_name": None},
    "builtin": {"module": "builtins", "class_name": "eval", "config": {}},
    "builtin function": {"module": "builtins", "class_name": "function", "config": "eval"},
    "os": {"module": "os", "class_name": "function", "config": "system"},
    "keras function": {
        "module": "keras.utils",
        "class_name": "function",
        "config": "get_file",
        "registered_name": "get_file",
    },
    "inside of keras": {
        "module": "keras.src.saving.saving_lib",
        "class_name": "load_model",
        "config": {"filepath": "x"},
        "registered_name": None,
    },
    "lambda": LAMBDA,
    "lambda layer": {
        "module": "keras.layers",
        "class_name": "Lambda",
        "config": {"function": LAMBDA},
        "registered_name": None,
    },
}
ARGUMENTS = ("inner_optimizer", "learning_rate", "tau", "solver", "memory", "exclude")


def bad(form):
    # A copy: TensorFlow changes a dictionary that becomes an attribute.
    return copy.deepcopy(FORMS[form])


def poisoned(argument, form):
    config = ProxProp(exclude=["last"]).get_config()
    config[argument] = [bad(form)] if argument == "exclude" else bad(form)
    return config


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("form", FORMS)
def test_a_config_that_names_other_code_is_refused(argument, form, trap):
    with pytest.raises((TypeError, ValueError)):
        ProxProp.from_config(poisoned(argument, form))
    with pytest.raises((TypeError, ValueError)):
        keras.optimizers.get({"class_name": "ProxProp", "config": poisoned(argument, form)})


def nested():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    solver, memory = solvers.Exact("dual"), CurvatureMemory(0.5)
    optimizer = ProxProp("sgd", schedule, tau=schedule, solver=solver, memory=memory)
    return optimizer.get_config()


@pytest.mark.parametrize(
    "path",
    [
        ("inner_optimizer", "config", "learning_rate"),
        ("inner_optimizer", "config", "momentum"),
        ("tau", "config", "decay_steps"),
        ("solver", "config", "form"),
        ("memory", "config", "layers"),
        ("memory", "config", "decay"),
        ("final_layer",),
        ("cross_replica",),
        ("name",),
    ],
    ids="/".join,
)
@pytest.mark.parametrize("form", FORMS)
def test_nor_does_one_deeper_in_it_run(path, form, trap):
    config = place = nested()
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = bad(form)
    try:
        ProxProp.from_config(config)
    except (TypeError, ValueError, AttributeError):
        pass


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """What a trained model's file holds, by name."""
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    model = compiled(mlp(), ProxProp())
    fit(model)
    model.save(path)
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("form", ["class", "function", "lambda", "builtin"])
def test_a_model_file_that_names_other_code_is_refused(argument, form, trap, saved):
    parts = dict(saved)
    config = json.loads(parts["config.json"])
    config["compile_config"]["optimizer"]["config"] = poisoned(argument, form)
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(trap / "bad.keras", "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)
    with pytest.raises((TypeError, ValueError)):
        keras.models.load_model(trap / "bad.keras")


def test_a_layer_type_is_looked_up_and_never_made():
    made = []

    @keras.saving.register_keras_serializable(package="tests")
    class Counted(keras.layers.Dense):
        def __init__(self, *args, **kwargs):
            made.append(self)
            super().__init__(*args, **kwargs)

    config = ProxProp(exclude=[Counted]).get_config()
    assert ProxProp.from_config(config).exclude == (Counted,) and not made


@pytest.mark.parametrize("name", ["keras.utils>get_file", "Layer.__init__", "__class__"])
def test_what_is_no_layer_type_is_not_taken_for_one(name):
    config = ProxProp(exclude=[keras.layers.Dense]).get_config()
    config["exclude"][0].update(class_name=name, registered_name=name)
    with pytest.raises((TypeError, ValueError), match="`exclude`"):
        ProxProp.from_config(config)
