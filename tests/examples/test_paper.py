"""`examples/paper_experiments.py`: what it writes, how it goes on, what it reports."""

import csv

import pytest
import tensorflow_datasets as tfds

import paper_experiments
from parts import results
from parts.paper_claims import report

QUICK = ["--quick", "--dataset", "digits"]
COLUMNS = ["method", "seed", "epoch", "seconds", "loss", "val_loss", "val_accuracy"]


def run(folder, *arguments):
    paper_experiments.main([*QUICK, "--out", str(folder), *arguments])
    return results.read(folder / "digits_mlp_quick.csv")


def without_seconds(rows):
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    return sorted(rows, key=lambda row: (row["method"], row["epoch"]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    return folder, run(folder, "--method", "backprop", "exact", "--epochs", "3")


def test_every_epoch_is_a_row(trained):
    folder, rows = trained
    with (folder / "digits_mlp_quick.csv").open() as file:
        assert next(csv.reader(file)) == COLUMNS
    assert [(r["method"], r["epoch"]) for r in rows] == [
        # In turns.
        (method, epoch) for epoch in range(4) for method in ("backprop", "exact")
    ]  # fmt: skip
    for own in results.grouped(rows, "method").values():
        assert own[0]["seconds"] == 0 and own[-1]["loss"] < own[0]["loss"]
        assert all(a["seconds"] < b["seconds"] for a, b in zip(own, own[1:]))
    # From the same weights.
    assert rows[0]["loss"] == rows[1]["loss"]


def test_plots_are_written_and_no_state_is_left(trained):
    folder, _ = trained
    assert (folder / "digits_mlp_quick.png").read_bytes().startswith(b"\x89PNG")
    assert list((folder / "state").iterdir()) == []


def test_a_finished_run_is_not_trained_again(trained, capsys):
    folder, rows = trained
    capsys.readouterr()
    assert run(folder, "--method", "backprop", "--epochs", "3") == rows
    assert "finished before" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no state is left .* --out"):
        run(folder, "--method", "backprop", "--epochs", "4")


@pytest.mark.parametrize("where", ["append", "save"])
def test_an_interrupted_run_goes_on_where_it_was(trained, tmp_path, monkeypatch, where):
    """Once between the state and the row of an epoch, once before both."""
    owner = results if where == "append" else paper_experiments.Run
    original, calls = getattr(owner, where), []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(*args)

    arguments = "--method", "backprop", "exact", "--epochs", "3"
    with monkeypatch.context() as patch:
        patch.setattr(owner, where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, *arguments)
    assert len(results.read(tmp_path / "digits_mlp_quick.csv")) == 5
    assert without_seconds(run(tmp_path, *arguments)) == without_seconds(trained[1])


def test_a_convnet_on_cifar10(tmp_path):
    with tfds.testing.mock_data(num_examples=250):
        arguments = ["--quick", "--model", "convnet", "--dataset", "cifar10", "--epochs", "1"]
        paper_experiments.main([*arguments, "--method", "cg3", "--out", str(tmp_path)])
    rows = results.read(tmp_path / "cifar10_convnet_quick.csv")
    assert [r["epoch"] for r in rows] == [0, 1]


def test_methods_of_the_other_model_are_refused(capsys):
    with pytest.raises(SystemExit):
        paper_experiments.main(["--model", "convnet", "--method", "cg5"])
    assert "--model convnet knows no --method cg5" in capsys.readouterr().err


def test_a_report_without_results_says_so(tmp_path):
    with pytest.raises(SystemExit, match="No results in .* without --report"):
        run(tmp_path, "--report")


def curve(method, losses, accuracy=0.9, seconds=1.0, seed=0):
    return [
        {"method": method, "seed": seed, "epoch": i, "seconds": i * seconds, "loss": loss,
         "val_loss": loss, "val_accuracy": accuracy}
        for i, loss in enumerate(losses)
    ]  # fmt: skip


def verdicts(*curves):
    """Returns the last column of the report's table of claims."""
    text = report([row for own in curves for row in own], "title")
    table = text[text.index("| claim") :].splitlines()[2:]
    return [line.split("|")[-2].strip() for line in table]


def test_every_claim_holds_where_the_figures_say_so():
    found = verdicts(
        curve("backprop", [4, 3, 2]),
        curve("exact", [4, 1.5, 0.5], seconds=1.2),
        curve("cg3", [4, 1.8, 0.9], seconds=2.0),
        curve("exact-x10", [4, 2, 1]),
    )
    assert found == ["yes"] * 5


def test_no_claim_holds_where_the_figures_deny_it():
    found = verdicts(
        curve("backprop", [4, 3, 2]),
        curve("exact", [4, 3.5, 3], accuracy=0.8, seconds=9.0),
        curve("cg3", [4, 3.8, 3.5]),
        curve("exact-x10", [4, 5, float("nan")]),
    )
    assert found == ["no"] * 5


def test_a_run_that_stays_at_its_first_loss_is_not_stable():
    exact = curve("exact", [4, 1, 0.5])
    rows = [*curve("backprop", [4, 3, 2]), *exact, *curve("exact-x10", [4, 3.9, 3.9])]
    assert verdicts(rows)[-2] == "no"
    assert "exact-x10 0 of 1 (3.9)" in report(rows, "title")


def test_figures_of_the_report():
    rows = curve("backprop", [4, 3, 2]) + curve("exact", [4, 1.0, 0.5], 0.95, seconds=3.0)
    line = [s for s in report(rows, "title").splitlines() if s.startswith("| exact |")]
    # 2 is reached after two thirds of an epoch: 2 s, as long as BackProp takes.
    assert line == ["| exact | 1 | 0.5 | 0.667 | 1 | 0.95 | 0 | 3 |"]
    # No CG, nothing about stability.
    assert verdicts(rows) == ["yes", "no", "–", "yes"]


def test_unfinished_runs_are_left_out_of_the_report():
    rows = curve("backprop", [4, 3, 2]) + curve("exact", [4, 1.0])
    assert "| exact |" not in report(rows, "title")
