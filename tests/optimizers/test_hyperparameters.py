"""Bad numbers of an optimizer are refused where it is made, with name, value and way out."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_proxprop import ProxProp, RowAdam, ScheduleFreeAdam, solvers

nan, inf = float("nan"), float("inf")
decay = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
MADE_BY = {
    "ProxProp": ProxProp,
    "ProxProp of a name": lambda **kwargs: ProxProp("adam", **kwargs),
    "ScheduleFreeAdam": ScheduleFreeAdam,
    "RowAdam": RowAdam,
}
BAD = [("learning_rate", value) for value in (nan, inf, "x", [0.1])]
BAD += [(name, value) for name in ("beta_1", "beta_2") for value in (2.0, 1, -0.1, nan, "x")]
BAD += [("epsilon", value) for value in (-1.0, inf, None, "x", True)]
NONE_TOO = "weight_decay", "clipnorm", "clipvalue", "global_clipnorm"
BAD += [(name, value) for name in NONE_TOO for value in ("a", -1.0, nan, 1j)]
BAD += [("gradient_accumulation_steps", value) for value in ("x", 2.5, 0)]
GOOD = [("learning_rate", value) for value in (0.0, 0.5, decay, lambda: 0.1)]
GOOD += [("beta_1", 0.0), ("beta_2", np.float32(0.5)), ("epsilon", 0), ("epsilon", 1e-3)]
GOOD += [(name, value) for name in NONE_TOO for value in (None, 1, np.float64(0.5))]
GOOD += [("gradient_accumulation_steps", 2), ("beta_1", tf.constant(0.5))]


@pytest.mark.parametrize("new", MADE_BY.values(), ids=MADE_BY)
@pytest.mark.parametrize("name, value", BAD, ids=[f"{n}={v}" for n, v in BAD])
def test_a_bad_number_is_refused_by_name(new, name, value):
    with pytest.raises((TypeError, ValueError), match=f"Argument `{name}` must be ") as raised:
        new(**{name: value})
    assert f"Received: {name}={value!r}" in str(raised.value)


@pytest.mark.parametrize("new", MADE_BY.values(), ids=MADE_BY)
@pytest.mark.parametrize("name, value", GOOD)
def test_a_good_number_is_taken(new, name, value):
    optimizer = new(**{name: value})
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    kept = getattr(optimizer, name)
    if name == "learning_rate":
        assert float(kept) == pytest.approx(0.1 if callable(value) else value)
    else:
        assert kept == value


def test_a_learning_rate_for_an_instance_is_checked_before_it_is_set():
    inner = RowAdam(0.25)
    with pytest.raises(ValueError, match="Argument `learning_rate` must be .*=nan"):
        ProxProp(inner, learning_rate=nan)
    assert float(inner.learning_rate) == 0.25


@pytest.mark.parametrize("rate", [0.001, decay])
def test_a_learning_rate_may_stand_in_the_first_place(rate):
    first, named = ProxProp(rate, beta_2=0.5), ProxProp(learning_rate=rate, beta_2=0.5)
    inner = first.inner_optimizer.get_config()
    assert inner == named.inner_optimizer.get_config() and inner["beta_2"] == 0.5


def test_a_wrong_learning_rate_in_the_first_place_is_told_its_name():
    with pytest.raises(ValueError, match="Argument `learning_rate` must be "):
        ProxProp(nan)


def test_two_learning_rates_are_refused():
    with pytest.raises(TypeError, match="`inner_optimizer` must be .*Two learning rates"):
        ProxProp(0.001, learning_rate=0.01)


@pytest.mark.parametrize("inner", [None, "sgd"])
def test_the_name_that_a_learning_rate_had_is_told_the_new_one(inner):
    message = "no argument `lr`.*Did you mean `learning_rate=0.001`"
    with pytest.raises(TypeError, match=message):
        ProxProp(inner, lr=0.001)


CONFIGS = [{}, {"memory": None, "tau": decay}, {"solver": solvers.Exact(), "memory": None}]


@pytest.mark.parametrize("given", CONFIGS, ids=[",".join(c) or "default" for c in CONFIGS])
def test_a_config_as_arguments_is_refused_with_the_way_out(given):
    config = ProxProp(**given).get_config()
    way_out = re.escape("`ProxProp.from_config(config)`")
    with pytest.raises(TypeError, match=rf"Argument `\w+` is a config.*{way_out}"):
        ProxProp(**config)
    assert ProxProp.from_config(config).get_config() == config
