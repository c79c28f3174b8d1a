"""`examples/everyday_defaults.py`: what it trains, goes on with, and prints."""

import pytest

import everyday_defaults
from parts import results


def arguments(path, *settings):
    names = ["--settings", *settings, "--tasks", "small", "--steps", "3", "--seeds", "1"]
    return [*names, "--out", str(path)]


def test_a_setting_is_trained_and_not_again(tmp_path):
    path = tmp_path / "defaults.csv"
    for _ in range(2):
        everyday_defaults.main(arguments(path, "tau=1"))
    (row,) = results.read(path)
    assert (row["task"], row["setting"], row["steps"]) == ("small", "tau=1", 3)
    assert 0 < row["loss"] < 10


CONSTANTS = {
    name: changed[everyday_defaults.CONSTANT]
    for name, changed in everyday_defaults.SETTINGS.items()
    if everyday_defaults.CONSTANT in changed
}


@pytest.mark.parametrize("setting", CONSTANTS)
def test_a_constant_is_another_one_while_it_trains(tmp_path, monkeypatch, setting):
    module, name, value = CONSTANTS[setting]
    assert getattr(module, name) != value
    monkeypatch.setattr(module, name, getattr(module, name))
    found = []

    def train(*_):
        # What is really traced with it would be there for the tests after this one.
        found.append(getattr(module, name))
        return [{"step": 3, "loss": 1.0, "val_loss": 1.0}], 0.0

    monkeypatch.setattr(everyday_defaults, "train", train)
    everyday_defaults.main(arguments(tmp_path / "defaults.csv", setting))
    assert found == [value]


def test_an_argument_of_the_optimizer_inside_is_given_to_it(tmp_path, monkeypatch):
    found = []

    def train(task, optimizer, *_):
        found.append(optimizer.inner_optimizer.beta_2)
        return [{"step": 3, "loss": 1.0, "val_loss": 1.0}], 0.0

    monkeypatch.setattr(everyday_defaults, "train", train)
    for setting in ("default", "beta_2=0.95"):
        everyday_defaults.main(arguments(tmp_path / "defaults.csv", setting))
    assert found == [0.98, 0.95]


def test_settings_are_compared_task_by_task():
    losses = {"default": (1.0, 2.0, 8.0), "tau=1": (4.0, 2.0, 4.0), "memory=None": (1.0,)}
    rows = [
        {"setting": setting, "task": task, "seed": 0, "loss": loss, "val_loss": 2 * loss**2}
        for setting, own in losses.items()
        for task, loss in zip(("small", "classes", "digits"), own)
    ]
    lines = everyday_defaults.report(rows).splitlines()[2:]
    assert lines == [
        "| tau=1 | 1.26 | 1 of 3 | small 4, classes 1 | digits 0.5, classes 1 | 1.59 |",
        "| memory=None | 1 | 0 of 1 | small 1 | small 1 | 1 |",
    ]
