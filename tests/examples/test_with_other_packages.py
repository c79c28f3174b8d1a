"""The short programs that use other packages run, where these are installed."""

import importlib
import importlib.util
import math

import pytest


def program(name, package=None):
    """Returns the program's `main`; skips the test where its package is missing."""
    if package and importlib.util.find_spec(package) is None:
        what = package.replace("_", "-")
        pytest.skip(f"{what} is not installed: pip install -e '.[integrations]'")
    return importlib.import_module(name).main


def test_a_tf_data_pipeline():
    history = program("with_tf_data")(["--epochs", "4"]).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert history["val_accuracy"][-1] > 0.5


def test_a_scikit_learn_pipeline_is_cross_validated():
    scores = program("with_scikit_learn")(["--epochs", "20", "--folds", "2"])
    # The larger class is 63 % of all.
    assert len(scores) == 2 and min(scores) > 0.8


def test_a_keras_tuner_search():
    best = program("with_keras_tuner", "keras_tuner")(["--epochs", "1", "--trials", "2"])
    assert best["rate"] in (1.0, 0.3, 3.0) and best["final_layer"] in ("explicit", "implicit")


def test_a_keras_hub_model_steps_implicitly():
    arguments = ["--epochs", "1", "--texts", "64", "--layers", "1"]
    history, rows = program("with_keras_hub", "keras_hub")(arguments)
    assert math.isfinite(history.history["loss"][0])
    implicit = sum(row.weights for row in rows if row.step == "implicit")
    assert implicit > 0.9 * sum(row.weights for row in rows)
