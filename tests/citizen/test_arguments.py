"""Every argument, in every form that it may take, survives every way to copy and save."""

import copy
import inspect
import json
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close_weights, weights_of
from scenarios import compiled, fit, mlp

from keras_proxprop import CurvatureMemory, ImplicitGradientTape, ProxProp, RowAdam, solvers

optimizers = keras.optimizers
Decay = optimizers.schedules.ExponentialDecay


class Own(keras.layers.Dense):
    """A layer type that nobody registered with Keras."""


@keras.saving.register_keras_serializable(package="tests")
class Registered(keras.layers.Dense):
    """One that somebody did."""


def multi():
    by_path = {"last/.*": optimizers.SGD(0.1)}
    return optimizers.MultiOptimizer(optimizers.OptimizerMap(optimizers.Adam(0.01), by_path))


layer = keras.layers.Dense(3, name="d3")
FORMS = {
    "inner_optimizer": {
        "none": lambda: None,
        "name": lambda: "sgd",
        "class name": lambda: "SGD",
        "config": lambda: {"class_name": "SGD", "config": {"momentum": 0.9}},
        "config of none": lambda: {"class_name": "SGD", "config": None},
        "class alone": lambda: {"class_name": "SGD"},
        "serialized": lambda: optimizers.serialize(optimizers.Adam(0.5, clipnorm=1.0)),
        "instance": lambda: optimizers.RMSprop(0.2, use_ema=True),
        "row adam": lambda: RowAdam(0.2, epsilon=1e-3),
        "multi": multi,
    },
    "learning_rate": {"number": lambda: 0.25, "schedule": lambda: Decay(0.1, 10, 0.9)},
    "tau": {
        "auto": lambda: "auto",
        "float": lambda: 0.1,
        "int": lambda: 2,
        "numpy": lambda: np.float32(0.5),
        "tensor": lambda: tf.constant(0.5),
        "tf variable": lambda: tf.Variable(0.5),
        "keras variable": lambda: keras.Variable(0.5),
        "schedule": lambda: Decay(1.0, 10, 0.5),
    },
    "solver": {
        "auto": lambda: "auto",
        "exact": lambda: "exact",
        "cg": lambda: "cg",
        "form": lambda: solvers.Exact("dual"),
        "iterations": lambda: solvers.ConjugateGradient(7),
    },
    "final_layer": {"implicit": lambda: "implicit", "explicit": lambda: "explicit"},
    "exclude": {
        "nothing": lambda: (),
        "name": lambda: "d1",
        "names": lambda: ["d1", "d2"],
        "set": lambda: {"d1"},
        "type": lambda: keras.layers.Dense,
        "model type": lambda: keras.Sequential,
        "types": lambda: [keras.layers.Conv2D, keras.layers.LSTM],
        "registered": lambda: Registered,
        "own": lambda: [Own],
        "instance": lambda: layer,
        "mixed": lambda: ["d1", keras.layers.Conv2D, Registered, Own, layer],
    },
    "memory": {
        "auto": lambda: "auto",
        "none": lambda: None,
        "full": lambda: CurvatureMemory(0.5, 7, "all"),
    },
    "cross_replica": {"exact": lambda: "exact", "mean": lambda: "mean"},
    "name": {"none": lambda: None, "mine": lambda: "mine"},
}
CASES = [(argument, form) for argument, forms in FORMS.items() for form in forms]


def by_json(optimizer):
    config = json.loads(json.dumps(optimizer.get_config()))
    return type(optimizer).from_config(config)


def by_clone(optimizer):
    model = compiled(mlp(), optimizer)
    return keras.models.clone_model(model).optimizer


WAYS = {
    "config": by_json,
    "serialize": lambda o: optimizers.deserialize(optimizers.serialize(o)),
    "deepcopy": copy.deepcopy,
    "pickle": lambda o: pickle.loads(pickle.dumps(o)),
    "clone": by_clone,
}


@pytest.mark.parametrize("argument, form", CASES, ids=[f"{a}-{f}" for a, f in CASES])
def test_an_argument_survives_every_way_to_copy_an_optimizer(argument, form):
    optimizer = ProxProp(**{argument: FORMS[argument][form]()})
    excluded = [e.name if isinstance(e, keras.Layer) else e for e in optimizer.exclude]
    for way, copied in WAYS.items():
        other = copied(optimizer)
        assert other is not optimizer, way
        assert other.get_config() == optimizer.get_config(), way
        # The types themselves, and a single one as a list of one.
        assert list(other.exclude) == excluded, way


def test_all_arguments_were_tried():
    names = set(inspect.signature(ProxProp.__init__).parameters) - {"self", "kwargs"}
    assert names == set(FORMS)


@pytest.mark.filterwarnings("ignore:No layer of model")
@pytest.mark.parametrize("exclude", [keras.layers.Dense, [Own, "hidden"], Registered])
def test_a_loaded_model_takes_explicit_steps_where_the_saved_one_did(exclude, tmp_path):
    keras.utils.set_random_seed(0)
    layers = [Own(4, name="own"), Registered(6, name="registered")]
    layers += [keras.layers.Dense(6, name="hidden"), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((5,)), *layers])
    fit(compiled(model, ProxProp("sgd", 0.1, tau=1.0, exclude=exclude)))
    model.save(tmp_path / "model.keras")
    own = {"Own": Own}
    other = keras.models.load_model(tmp_path / "model.keras", custom_objects=own)
    for each in (model, other):
        fit(each)
    assert_close_weights(weights_of(other), weights_of(model), 1e-6)


def test_a_single_name_in_a_config_is_one_name():
    config = {**ProxProp().get_config(), "exclude": "d1"}
    assert list(ProxProp.from_config(config).exclude) == ["d1"]


def test_an_excluded_type_that_is_not_to_be_found_is_named_with_the_way_out():
    form = ProxProp(exclude=[Own]).get_config()
    form["exclude"][0]["class_name"] = "Lost"
    form["exclude"][0]["registered_name"] = "Lost"
    with pytest.raises((TypeError, ValueError), match="`exclude`.*custom_objects.*Lost"):
        ProxProp.from_config(form)


array = np.array(["a", "b"])
numbers = np.array([0.5, 0.5])
BAD = {
    "no config": (lambda: ProxProp({}), "inner_optimizer", "{}"),
    "no class": (lambda: ProxProp({"config": {}}), "inner_optimizer", "{'config': {}}"),
    "class number": (lambda: ProxProp({"class_name": 3}), "inner_optimizer", "3"),
    "no optimizer": (lambda: ProxProp({"class_name": "Dense"}), "inner_optimizer", "Dense"),
    "inner array": (lambda: ProxProp(array), "inner_optimizer", repr(array)),
    "layers": (lambda: CurvatureMemory(layers=array), "layers", repr(array)),
    "layers none": (lambda: CurvatureMemory(layers=None), "layers", "None"),
    "decay": (lambda: CurvatureMemory(decay=numbers), "decay", repr(numbers)),
    "refresh": (lambda: CurvatureMemory(refresh_every=numbers), "refresh_every", "0.5"),
    "tau": (lambda: ProxProp(tau=numbers), "tau", repr(numbers)),
    "tau tensor": (lambda: ProxProp(tau=tf.constant(numbers)), "tau", "0.5"),
    "tau tape": (lambda: ImplicitGradientTape(mlp(), tf.constant(numbers)), "tau", "0.5"),
    "solver": (lambda: ProxProp(solver=array), "solver", repr(array)),
    "form": (lambda: solvers.Exact(array), "form", repr(array)),
    "iterations": (lambda: solvers.ConjugateGradient(numbers), "iterations", "0.5"),
    "final_layer": (lambda: ProxProp(final_layer=array), "final_layer", repr(array)),
    "exclude": (lambda: ProxProp(exclude=array), "exclude", repr(array)),
    "memory": (lambda: ProxProp(memory=array), "memory", repr(array)),
    "cross_replica": (lambda: ProxProp(cross_replica=array), "cross_replica", repr(array)),
    "tape's": (lambda: ImplicitGradientTape(mlp(), cross_replica=3), "cross_replica", "3"),
    "tiny tau": (lambda: ProxProp(tau=1e-39), "tau", "1e-39"),
    "tiny tensor": (lambda: ProxProp(tau=tf.constant(1e-60, "float64")), "tau", "1e-60"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_argument_of_a_wrong_form_is_named_with_its_value(case):
    make, argument, value = BAD[case]
    with pytest.raises((TypeError, ValueError)) as raised:
        make()
    assert f"`{argument}`" in str(raised.value) and value in str(raised.value)


@pytest.mark.parametrize("inner", [None, "sgd", {"class_name": "SGD", "config": {}}, multi()])
def test_an_argument_that_nobody_has_is_not_blamed_on_the_inner_optimizer(inner):
    message = "ProxProp has no argument `taw`.*Did you mean `tau=1.0`"
    with pytest.raises(TypeError, match=message):
        ProxProp(inner, taw=1.0)
    with pytest.raises(TypeError, match="no argument `qqq`"):
        ProxProp(inner, qqq=1.0)
    config = {**ProxProp(inner).get_config(), "taw": 1.0}
    with pytest.raises(TypeError, match="ProxProp has no argument `taw`"):
        ProxProp.from_config(config)


class Picky(optimizers.SGD):
    """An optimizer with arguments that its signature does not show."""

    def __init__(self, *args, **kwargs):
        self_made = kwargs.pop("self_made", None)
        super().__init__(*args, **kwargs)
        self.self_made = self_made


def test_what_an_inner_optimizer_takes_without_saying_so_is_handed_on():
    with keras.saving.custom_object_scope({"Picky": Picky}):
        inner = ProxProp({"class_name": "Picky", "config": {}}, self_made=3).inner_optimizer
    assert inner.self_made == 3


def test_a_bad_value_for_the_inner_optimizer_keeps_its_own_error():
    with pytest.raises(ValueError, match="Only one of `clipnorm`"):
        ProxProp("sgd", clipnorm=1.0, clipvalue=1.0)
