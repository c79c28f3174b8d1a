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


def test_a_run_that_weights_and_biases_logs(tmp_path, monkeypatch):
    main = program("with_wandb", "wandb")
    # Neither usage nor errors are reported.
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    logged = main(["--epochs", "2", "--out", str(tmp_path)])
    assert logged["epoch/epoch"] == 1
    assert logged["epoch/learning_rate"] == pytest.approx(0.001)
    assert 0 < logged["epoch/hidden/cosine"] <= 1 and logged["epoch/val_accuracy"] > 0.5
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_a_keras_hub_model_steps_implicitly():
    arguments = ["--epochs", "1", "--texts", "64", "--layers", "1"]
    history, rows = program("with_keras_hub", "keras_hub")(arguments)
    assert math.isfinite(history.history["loss"][0])
    implicit = sum(row.weights for row in rows if row.step == "implicit")
    assert implicit > 0.9 * sum(row.weights for row in rows)
