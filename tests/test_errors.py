"""Bad input is refused with its name and value, before a weight changes."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import MODES, assert_equal_weights, weights_of

import keras_proxprop
from keras_proxprop import ImplicitGradientTape, ProxProp, solvers

optimizers = keras.optimizers
schedule = optimizers.schedules.ExponentialDecay(1.0, 10, 0.9)


def build():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(3, "relu", name="hidden")(inputs)
    hidden = keras.layers.BatchNormalization()(hidden)
    return keras.Model(inputs, keras.layers.Dense(2, name="last")(hidden))


ARGUMENTS = {
    "tau zero": (ValueError, "tau", {"tau": 0}),
    "tau negative": (ValueError, "tau", {"tau": -0.5}),
    "tau nan": (ValueError, "tau", {"tau": float("nan")}),
    "tau inf": (ValueError, "tau", {"tau": float("inf")}),
    "tau numpy nan": (ValueError, "tau", {"tau": np.float32("nan")}),
    "tau string": (TypeError, "tau", {"tau": "1.0"}),
    "tau none": (TypeError, "tau", {"tau": None}),
    "tau bool": (TypeError, "tau", {"tau": True}),
    "tau list": (TypeError, "tau", {"tau": [1.0]}),
    "tau complex": (TypeError, "tau", {"tau": 1j}),
    "solver name": (ValueError, "solver", {"solver": "lu"}),
    "solver none": (ValueError, "solver", {"solver": None}),
    "solver class": (ValueError, "solver", {"solver": solvers.Exact}),
    "final_layer": (ValueError, "final_layer", {"final_layer": "skip"}),
    "final_layer none": (ValueError, "final_layer", {"final_layer": None}),
    "exclude number": (TypeError, "exclude", {"exclude": 3}),
    "exclude none": (TypeError, "exclude", {"exclude": None}),
    "exclude holds a number": (TypeError, "exclude", {"exclude": ["hidden", 3]}),
    "exclude holds another type": (TypeError, "exclude", {"exclude": [dict]}),
}


def shown(name, options):
    value = options[name]
    return f"{name}={value[-1] if name == 'exclude' and isinstance(value, list) else value!r}"


@pytest.mark.parametrize("case", ARGUMENTS)
def test_an_optimizer_names_the_argument_and_its_value(case):
    error, name, options = ARGUMENTS[case]
    with pytest.raises(error, match=re.escape(f"`{name}`")) as raised:
        ProxProp(**options)
    assert shown(name, options) in str(raised.value)


@pytest.mark.parametrize("case", ARGUMENTS)
def test_a_tape_names_the_argument_and_its_value(case):
    error, name, options = ARGUMENTS[case]
    with pytest.raises(error, match=re.escape(f"`{name}`")) as raised:
        ImplicitGradientTape(build(), **options)
    assert shown(name, options) in str(raised.value)


@pytest.mark.parametrize("tau", [-1.0, 0.0, float("nan")])
def test_a_tensor_tau_is_checked_where_its_value_is_known(tau):
    with pytest.raises(ValueError, match="`tau`"):
        ImplicitGradientTape(build(), tau=tf.constant(tau))
    with pytest.raises(ValueError, match="`tau`"):
        ProxProp(tau=tf.constant(tau))


@pytest.mark.parametrize("iterations", ["auto", 1.5, True, [1]])
def test_a_tape_names_iterations_that_are_no_number_of_steps(iterations):
    with pytest.raises(ValueError, match="`iterations`") as raised:
        ImplicitGradientTape(build(), iterations=iterations)
    assert f"iterations={iterations!r}" in str(raised.value)


def test_a_tape_takes_no_schedule_since_it_knows_no_iteration():
    with pytest.raises(TypeError, match="`tau` must be a positive float"):
        ImplicitGradientTape(build(), tau=schedule)


@pytest.mark.parametrize("tau", [0, -1.0, float("nan"), "1", schedule])
def test_assigning_a_bad_tau_is_refused_and_leaves_the_old_one(tau):
    optimizer = ProxProp(tau=0.3)
    with pytest.raises((ValueError, TypeError), match="tau"):
        optimizer.tau = tau
    assert float(optimizer.tau) == 0.3


@pytest.mark.parametrize("iterations", [0, -1, 2.5, "3", None, True])
def test_conjugate_gradient_names_a_bad_number_of_iterations(iterations):
    with pytest.raises((ValueError, TypeError), match="`iterations`") as raised:
        solvers.ConjugateGradient(iterations)
    assert repr(iterations) in str(raised.value)


def test_exact_names_an_unknown_form():
    with pytest.raises(ValueError, match="`form`.*form='qr'"):
        solvers.Exact("qr")


INNER = {
    "itself": lambda: ProxProp(),
    "its config": lambda: keras.saving.serialize_keras_object(ProxProp()),
    "a loss scale optimizer": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam()
    ),
}


@pytest.mark.parametrize("case", INNER)
def test_an_inner_optimizer_must_make_plain_steps(case):
    with pytest.raises(ValueError, match="`inner_optimizer`.*inner_optimizer="):
        ProxProp(INNER[case]())


@pytest.mark.parametrize("inner", [[1e-3], keras.optimizers.Adam])
def test_an_inner_optimizer_of_a_wrong_type_is_named(inner):
    with pytest.raises(TypeError, match="`inner_optimizer`") as raised:
        ProxProp(inner)
    assert repr(inner) in str(raised.value)


def test_an_unknown_inner_optimizer_is_named():
    with pytest.raises(ValueError, match="adamm"):
        ProxProp("adamm")


def test_an_unknown_argument_is_named():
    with pytest.raises((ValueError, TypeError), match="momentun"):
        ProxProp("sgd", momentun=0.9)


def test_arguments_of_an_inner_optimizer_go_to_its_instance():
    with pytest.raises(ValueError, match="momentum"):
        ProxProp(keras.optimizers.SGD(), momentum=0.9)


NO_MODELS = [keras.layers.Dense(3), None, "model", lambda x: x, keras.Model]


@pytest.mark.parametrize(
    "model", NO_MODELS, ids=["layer", "none", "name", "function", "class"]
)
def test_what_is_not_a_keras_model_is_refused(model):
    for use in (ImplicitGradientTape, keras_proxprop.summary):
        with pytest.raises(TypeError, match="`model` must be a `keras.Model`") as raised:
            use(model)
        assert repr(model) in str(raised.value)


def test_a_summary_of_another_optimizer_is_refused():
    with pytest.raises(TypeError, match="`optimizer` must be a `ProxProp`"):
        keras_proxprop.summary(build(), optimizer=keras.optimizers.Adam())


@pytest.mark.parametrize("batch_size", [0, -3, 2.5, "32", True])
def test_a_summary_names_a_bad_batch_size(batch_size):
    with pytest.raises((ValueError, TypeError), match="`batch_size`") as raised:
        keras_proxprop.summary(build(), batch_size=batch_size)
    assert repr(batch_size) in str(raised.value)


@pytest.mark.parametrize("device", ["gpu", "TPU", "GPU:0", 0])
def test_a_summary_names_a_bad_device(device):
    with pytest.raises(ValueError, match="`device` must be 'CPU' or 'GPU'") as raised:
        keras_proxprop.summary(build(), device=device)
    assert f"device={device!r}" in str(raised.value)


EXCLUDES = {
    "name": lambda: "hiden",
    "one of two names": lambda: ["hidden", "hiden"],
    "type": lambda: keras.layers.Conv2D,
    "instance": lambda: keras.layers.Dense(3, name="hidden"),
}


@pytest.mark.parametrize("mode", ["eager", "graph", "default"])
@pytest.mark.parametrize("case", EXCLUDES)
def test_exclude_that_names_no_layer_changes_nothing(case, mode):
    model = build()
    before, exclude = weights_of(model), EXCLUDES[case]()
    model.compile(optimizer=ProxProp(exclude=exclude), loss="mse", **MODES[mode])
    with pytest.raises(ValueError, match="`exclude` names no layer of the model") as raised:
        model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
    assert repr(exclude[-1] if isinstance(exclude, list) else exclude) in str(raised.value)
    assert "hidden" in str(raised.value)
    # The statistics of the batch normalization, too.
    assert_equal_weights(weights_of(model), before)


def test_exclude_that_names_no_layer_is_refused_by_tape_and_summary():
    model = build()
    with pytest.raises(ValueError, match="`exclude` names no layer.*'hiden'"):
        with ImplicitGradientTape(model, exclude="hiden"):
            pass
    with pytest.raises(ValueError, match="`exclude` names no layer.*'hiden'"):
        keras_proxprop.summary(model, optimizer=ProxProp(exclude="hiden"))


def test_a_large_model_is_not_listed_as_a_whole():
    layers = [keras.layers.Dense(2, name=f"dense_number_{i}") for i in range(30)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    with pytest.raises(ValueError, match="Did you mean 'dense_number_25'?") as raised:
        with ImplicitGradientTape(model, exclude="dense_nmber_25"):
            pass
    assert "and 20 more" in str(raised.value) and "dense_number_29" not in str(raised.value)
    with pytest.raises(RuntimeError, match="and 55 more") as raised:
        gradients = [tf.ones_like(v) for v in model.trainable_variables]
        ProxProp().apply(gradients, model.trainable_variables)
    assert "ImplicitGradientTape" in str(raised.value)


def test_a_block_says_what_it_must_define():
    class MyBlock(keras_proxprop.blocks.Block):
        pass

    layer = keras.layers.Dense(3)
    for call in (MyBlock(layer).multiply, MyBlock(layer).rows):
        with pytest.raises(NotImplementedError, match="MyBlock must define `") as raised:
            call(None, None)
        assert call.__name__ in str(raised.value)


def test_exclude_that_names_no_layer_of_an_unbuilt_model_is_refused_before_the_step():
    model = keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(2)])
    keras.utils.set_random_seed(0)
    with pytest.raises(ValueError, match="`exclude` names no layer.*'hiden'"):
        with ImplicitGradientTape(model, exclude="hiden") as tape:
            loss = tf.reduce_mean(model(np.ones((8, 4))))
        tape.gradient(loss, model.trainable_variables)
