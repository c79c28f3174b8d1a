"""`examples/everyday_defaults.py`: what it trains, goes on with, and prints."""

import pytest

import everyday_defaults
from keras_proxprop import tau
from parts import results


def arguments(path, *settings):
    names = ["--settings", *settings, "--tasks", "small", "--steps", "3", "--seeds", "1"]
    return [*names, "--out", str(path)]


def test_a_setting_is_trained_and_not_again(tmp_path, monkeypatch):
    monkeypatch.setattr(tau, "RELATIVE_SHIFT", tau.RELATIVE_SHIFT)
    path = tmp_path / "defaults.csv"
    for _ in range(2):
        everyday_defaults.main(arguments(path, "tau=1"))
    (row,) = results.read(path)
    assert (row["task"], row["setting"], row["steps"]) == ("small", "tau=1", 3)
    assert 0 < row["loss"] < 10


def test_another_multiple_of_tau_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tau, "RELATIVE_SHIFT", tau.RELATIVE_SHIFT)
    found = []

    def train(*_):
        # What is really traced with it would be there for the tests after this one.
        found.append(tau.RELATIVE_SHIFT)
        return [{"step": 3, "loss": 1.0, "val_loss": 1.0}], 0.0

    monkeypatch.setattr(everyday_defaults, "train", train)
    changes = everyday_defaults.SETTINGS
    setting = next(name for name in changes if "auto" in changes[name])
    everyday_defaults.main(arguments(tmp_path / "defaults.csv", setting))
    assert found == [pytest.approx(1 / 3)]


def test_settings_are_compared_task_by_task():
    losses = {"default": (1.0, 2.0, 8.0), "tau=1": (2.0, 2.0, 4.0), "memory=None": (1.0,)}
    rows = [
        {"setting": setting, "task": task, "seed": 0, "loss": loss}
        for setting, own in losses.items()
        for task, loss in zip(("small", "classes", "digits"), own)
    ]
    lines = everyday_defaults.report(rows).splitlines()[2:]
    assert lines == [
        "| tau=1 | 1 | 1 of 3 | small 2, classes 1 | digits 0.5, classes 1 |",
        "| memory=None | 1 | 0 of 1 | small 1 | small 1 |",
    ]
