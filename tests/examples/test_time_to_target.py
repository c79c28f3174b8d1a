"""`examples/benchmarks/time_to_target.py`: how it tunes, takes turns, goes on, reports."""

import dataclasses
import math
import os
import pathlib

import keras
import numpy as np
import pytest

import _contenders
import _data
import _models
import _results
import _target_report
import time_to_target
from _contenders import text
from _kfac_run import KfacRun, how_to_install
from _training import Run

COLUMNS = (
    ["dataset", "quick", "jit", "budget", "tuning", "task", "stage", "optimizer", "arguments"]
    + ["seed", "turn", "seconds", "epoch", "loss", "val_loss", "val_accuracy"]
)  # fmt: skip


def walked(name, loss, task="mlp64", farthest=3):
    """Returns the tuned arguments, and how many trials it took, for a loss of arguments."""
    losses = {}
    while missing := _contenders.trials(name, task, losses, farthest):
        assert not {text(m) for m in missing} & set(losses)
        losses |= {text(m): loss(**m) for m in missing}
    return _contenders.tuned(name, task, losses, farthest), len(losses)


def test_the_best_of_three_is_taken_where_it_is_in_the_middle():
    best, trials = walked("adam", lambda learning_rate: abs(math.log(learning_rate / 1e-3)))
    assert best == {"learning_rate": 1e-3} and trials == 3


@pytest.mark.parametrize("target, expected, trials", [(0.01, 0.01, 5), (1.0, 0.0316, 5)])
def test_the_grid_goes_on_while_its_best_is_at_the_end(target, expected, trials):
    best, count = walked("adam", lambda learning_rate: abs(math.log(learning_rate / target)))
    assert best == {"learning_rate": pytest.approx(expected)} and count == trials


def test_what_diverges_is_never_the_best():
    def loss(learning_rate, damping):
        return math.nan if damping < 0.5 or learning_rate > 0.02 else 1 / learning_rate

    best, _ = walked("kfac-jax", loss)
    assert best == {"learning_rate": 0.00949, "damping": 1.0}


def test_tau_is_tuned_at_the_best_learning_rate():
    def loss(learning_rate, tau):
        return abs(math.log(learning_rate / 3e-3)) + abs(math.log(tau / 20))

    best, trials = walked("proxprop-tau", loss)
    assert best == {"learning_rate": 0.00316, "tau": 10.0}
    # Three and one more, then two new and one more.
    assert trials == 7


def test_an_untuned_optimizer_needs_no_trials():
    assert walked("proxprop-untuned", None) == ({}, 0)
    assert text({}) == "defaults"


def test_a_quick_grid_has_three_trials():
    assert walked("adam", lambda learning_rate: learning_rate, farthest=1)[1] == 3


def test_every_contender_makes_an_optimizer_with_its_arguments():
    for name, contender in _contenders.CONTENDERS.items():
        if contender.make:
            arguments = _contenders.start(name, "mlp64")
            optimizer = contender.make(**arguments)
            expected = arguments.get("learning_rate", 1e-3)
            assert float(optimizer.learning_rate) == pytest.approx(expected), name
            if "tau" in arguments:
                assert float(optimizer.tau) == arguments["tau"]


def test_a_contender_differs_from_the_defaults_in_memory_alone():
    configs = [
        _contenders.CONTENDERS[name].make(learning_rate=1e-3).get_config()
        for name in ("proxprop", "proxprop-batch")
    ]
    assert configs[0].pop("memory") and configs[1].pop("memory") is None
    for config in configs:
        assert config.pop("tau") == "auto"
        config.pop("name")
        config["inner_optimizer"]["config"].pop("name")
    assert configs[0] == configs[1]


@pytest.fixture(scope="module")
def small():
    """Small networks for two of the tasks, and a clock that says a step takes 0.1 s."""
    with pytest.MonkeyPatch.context() as patch:
        tasks = dict(_contenders.TASKS)
        models = {"mlp64": lambda s: _models.mlp(s, 30, 20), "autoencoder": autoencoder}
        for name, model in models.items():
            tasks[name] = dataclasses.replace(tasks[name], model=model)
            patch.setitem(_contenders.TASKS, name, tasks[name])
        patch.setattr(
            "_training.time.perf_counter", iter(0.1 * i for i in range(10**9)).__next__
        )
        yield


def autoencoder(shape):
    layers = [keras.layers.Dense(12, "tanh"), keras.layers.Dense(shape[0])]
    return keras.Sequential([keras.Input(shape), *layers])


def run(folder, *arguments):
    common = ["--dataset", "digits", "--quick", "--budget", "200", "--out", str(folder)]
    time_to_target.main([*common, *arguments])
    return _results.read(folder / "runs.csv")


FIRST = "--task", "mlp64", "--optimizer", "nesterov", "proxprop-untuned"


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("target")
    return folder, run(folder, *FIRST)


def test_every_optimizer_trains_for_the_same_seconds_from_the_same_weights(finished):
    rows = finished[1]
    assert list(rows[0]) == COLUMNS
    runs = _results.grouped([r for r in rows if r["stage"] == "final"], "optimizer")
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


def test_optimizers_take_turns(small, tmp_path, monkeypatch):
    trained, original = [], Run.train

    def noted(self, **kwargs):
        trained.append((type(self.model.optimizer).__name__, kwargs["seconds"]))
        original(self, **kwargs)

    monkeypatch.setattr(Run, "train", noted)
    run(tmp_path, *FIRST)
    final = trained[-21 * 3 :]
    for turn in range(21):
        names, seconds = zip(*final[3 * turn : 3 * turn + 3])
        assert set(names) == {"Adam", "SGD", "ProxProp"} and len(set(seconds)) == 1
    assert len({names[0] for names in final[::3]}) == 3


def test_started_again_it_does_only_what_is_missing(finished, capsys):
    folder, rows = finished
    assert run(folder, *FIRST) == rows
    capsys.readouterr()
    more = run(folder, *FIRST, "proxprop")[len(rows) :]
    assert {r["optimizer"] for r in more} == {"proxprop"} and len(more) == 3 + 21


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
    before = _results.read(tmp_path / "runs.csv")
    assert {r["stage"] for r in before} == {"tune"}
    after = run(tmp_path, *FIRST)
    assert after[: len(before)] == before and len(after) == len(before) + 3 * 21


def test_an_autoencoder_is_judged_by_its_validation_loss(small, tmp_path, capsys):
    rows = run(tmp_path, "--task", "autoencoder", "--optimizer", "adam")
    assert all(math.isnan(r["val_accuracy"]) for r in rows)
    assert "best validation loss" in capsys.readouterr().out
    assert (tmp_path / "digits_autoencoder_quick.png").read_bytes().startswith(b"\x89PNG")


def curve(optimizer, losses, accuracies, seconds=1.0, seed=0):
    return [
        {"dataset": "digits", "quick": 0, "jit": 0, "budget": 2.0, "optimizer": optimizer,
         "arguments": "a=1", "seed": seed, "turn": i, "seconds": seconds * i, "epoch": i,
         "loss": loss, "val_loss": loss, "val_accuracy": accuracy}
        for i, (loss, accuracy) in enumerate(zip(losses, accuracies))
    ]  # fmt: skip


def test_figures_of_the_report(tmp_path):
    rows = curve("adam", [4, 3, 2], [0.1, 0.5, 0.8])
    rows += curve("lion", [4, 1, 0.5], [0.1, 0.9, 0.7], seconds=1.5)
    rows += curve("muon", [4, 3, 2.5], [0.1, 0.2, 0.3])
    lines = _target_report.report("mlp64", rows, tmp_path).splitlines()
    found = {
        line.split(" | ")[0][2:]: line.split(" | ")[3:] for line in lines if "a=1" in line
    }
    assert found["adam"][:4] == ["1", "1", "1", "2"]
    # Two thirds of 1.5 s to a loss of 2, seven eighths of it to an accuracy of 0.8.
    assert found["lion"] == ["0.5", "0.333", "0.656", "0.5", "0.9", "1", "2 |"]
    assert found["muon"][:3] == ["never"] * 3


def test_kfac_jax_is_left_out_with_the_way_to_have_it(small, finished, capsys):
    run(finished[0], "--task", "mlp64", "--optimizer", "adam", "kfac-jax")
    printed = capsys.readouterr().out
    python = finished[0] / "kfac" / "bin" / "python"
    assert "kfac-jax is left out" in printed and how_to_install(python) in printed


needs_kfac = pytest.mark.skipif(
    "KFAC_PYTHON" not in os.environ,
    reason="kfac-jax needs an environment of its own: set KFAC_PYTHON to its interpreter",
)


@needs_kfac
@pytest.mark.parametrize("name", ["mlp64", "autoencoder"])
def test_kfac_jax_trains_the_same_network(name, tmp_path):
    data = _data.load("digits").head(300)
    task = _contenders.TASKS[name]
    data = data.reconstruction() if task.reconstruction else data
    python = pathlib.Path(os.environ["KFAC_PYTHON"])
    model = autoencoder((64,)) if task.reconstruction else _models.mlp(data.shape, 30, 20)
    common = model, task.loss, data, 50, 0
    first = model.get_weights()
    arguments = {"learning_rate": 1e-30, "damping": 1.0}
    run = KfacRun(python, tmp_path, *common, arguments)
    before = run.evaluate()
    run.train(seconds=0.05)
    assert run.steps > 0
    # Steps of no length: what comes back are the weights that went there.
    assert run.evaluate() == pytest.approx(before, nan_ok=True)
    for a, b in zip(model.get_weights(), first):
        np.testing.assert_allclose(a, b, atol=1e-7)
    run.close()
    run = KfacRun(python, tmp_path, *common, {"learning_rate": 0.01, "damping": 1.0})
    run.train(seconds=1.0)
    assert run.seconds >= 1.0 and run.evaluate()["loss"] < 0.9 * before["loss"]
    run.close()
