"""`examples/time_to_target.py`: how runs take turns, go on, and are reported."""

import dataclasses
import math

import keras
import pytest

import time_to_target
from parts import contenders, models, results
from parts.kfac_run import how_to_install
from parts.training import Run

COLUMNS = (
    ["dataset", "quick", "jit", "budget", "tuning", "task", "stage", "optimizer", "arguments"]
    + ["seed", "turn", "seconds", "epoch", "loss", "val_loss", "val_accuracy"]
)  # fmt: skip


@pytest.fixture(scope="module")
def small():
    """Small networks for two of the tasks, and a clock that says a step takes 0.1 s."""
    with pytest.MonkeyPatch.context() as patch:
        tasks = dict(contenders.TASKS)
        smaller = {"mlp64": lambda s: models.mlp(s, 30, 20), "autoencoder": autoencoder}
        for name, model in smaller.items():
            tasks[name] = dataclasses.replace(tasks[name], model=model)
            patch.setitem(contenders.TASKS, name, tasks[name])
        patch.setattr(
            "parts.training.time.perf_counter", iter(0.1 * i for i in range(10**9)).__next__
        )
        yield


def autoencoder(shape):
    layers = [keras.layers.Dense(12, "tanh"), keras.layers.Dense(shape[0])]
    return keras.Sequential([keras.Input(shape), *layers])


def run(folder, *arguments):
    common = ["--dataset", "digits", "--quick", "--budget", "200", "--out", str(folder)]
    time_to_target.main([*common, *arguments])
    return results.read(folder / "runs.csv")


FIRST = "--task", "mlp64", "--optimizer", "nesterov", "proxprop-untuned"


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """Returns the folder of a finished run, its rows, and what was trained for how long."""
    folder, trained, original = tmp_path_factory.mktemp("target"), [], Run.train

    def noted(self, **kwargs):
        trained.append((type(self.model.optimizer).__name__, kwargs["seconds"]))
        original(self, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "train", noted)
        return folder, run(folder, *FIRST), trained


def test_every_optimizer_trains_for_the_same_seconds_from_the_same_weights(finished):
    rows = finished[1]
    assert list(rows[0]) == COLUMNS
    runs = results.grouped([r for r in rows if r["stage"] == "final"], "optimizer")
    # Adam is always there: it sets the target.
    assert list(runs) == ["adam", "nesterov", "proxprop-untuned"]
    for own in runs.values():
        assert [r["turn"] for r in own] == list(range(21))
        assert own[0]["seconds"] == 0 and own[0]["loss"] == runs["adam"][0]["loss"]
        # A budget of 2 s, and at most a step more.
        assert 2.0 <= own[-1]["seconds"] < 2.1 + 1e-6
        assert own[-1]["epoch"] == pytest.approx(own[-1]["seconds"] / 0.1 / (1438 // 64))
        assert own[-1]["loss"] < own[0]["loss"]


def test_tuning_takes_a_part_of_the_seconds_and_another_seed(finished):
    rows = [r for r in finished[1] if r["stage"] == "tune"]
    found = [(r["optimizer"], r["arguments"]) for r in rows]
    assert [f for f in found if f[0] == "nesterov"] == [
        ("nesterov", f"learning_rate={v}") for v in ("0.0316", "0.1", "0.316")
    ]
    assert len(found) == 6 and {r["seed"] for r in rows} == {1000}
    assert all(0.6 <= r["seconds"] < 0.7 + 1e-6 for r in rows)
    final = [r for r in finished[1] if r["stage"] == "final" and r["optimizer"] == "nesterov"]
    best = min((r for r in rows if r["optimizer"] == "nesterov"), key=lambda r: r["loss"])
    assert {r["arguments"] for r in final} == {best["arguments"]}


def test_optimizers_take_turns(finished):
    final = finished[2][-21 * 3 :]
    for turn in range(21):
        names, seconds = zip(*final[3 * turn : 3 * turn + 3])
        assert set(names) == {"Adam", "SGD", "ProxProp"} and len(set(seconds)) == 1
    assert len({names[0] for names in final[::3]}) == 3


def test_started_again_it_does_only_what_is_missing(finished, capsys):
    folder, rows, _ = finished
    assert run(folder, *FIRST) == rows
    capsys.readouterr()
    more = run(folder, *FIRST, "proxprop")[len(rows) :]
    assert {r["optimizer"] for r in more} == {"proxprop"} and len(more) == 3 + 21


def test_the_report_needs_no_more_than_a_row_per_run(finished, tmp_path, capsys):
    arguments = *FIRST, "--report"
    run(finished[0], *arguments)
    printed = capsys.readouterr().out
    (tmp_path / "summary.csv").write_bytes((finished[0] / "summary.csv").read_bytes())
    assert run(tmp_path, *arguments) == []
    table, plots = capsys.readouterr().out.split("No plots")
    assert printed.startswith(table) and list(tmp_path.iterdir()) == [tmp_path / "summary.csv"]


def test_nothing_of_an_interrupted_group_counts(small, tmp_path, monkeypatch):
    calls, original = [], Run.train

    def interrupted(self, **kwargs):
        calls.append(self)
        if len(calls) > 60:
            raise KeyboardInterrupt
        original(self, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, *FIRST)
    before = results.read(tmp_path / "runs.csv")
    assert {r["stage"] for r in before} == {"tune"}
    after = run(tmp_path, *FIRST)
    assert after[: len(before)] == before and len(after) == len(before) + 3 * 21


def test_an_autoencoder_is_judged_by_its_validation_loss(small, tmp_path, capsys):
    rows = run(tmp_path, "--task", "autoencoder", "--optimizer", "adam")
    assert all(math.isnan(r["val_accuracy"]) for r in rows)
    assert "best validation loss" in capsys.readouterr().out
    assert (tmp_path / "digits_autoencoder_quick.png").read_bytes().startswith(b"\x89PNG")


def test_kfac_jax_is_left_out_with_the_way_to_have_it(small, finished, capsys):
    run(finished[0], "--task", "mlp64", "--optimizer", "adam", "kfac-jax")
    printed = capsys.readouterr().out
    python = finished[0] / "kfac" / "bin" / "python"
    assert "kfac-jax is left out" in printed and how_to_install(python) in printed
