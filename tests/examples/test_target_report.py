"""The report of `time_to_target.py`, made of a row per run."""

import pytest

from parts.target_report import report, summaries


def curve(optimizer, losses, accuracies, seconds=1.0, seed=0):
    return [
        {"dataset": "digits", "quick": 0, "jit": 0, "budget": 2.0, "tuning": 0.3,
         "task": "mlp64", "optimizer": optimizer, "arguments": "a=1", "seed": seed, "turn": i,
         "seconds": seconds * i, "epoch": i, "loss": loss, "val_loss": loss,
         "val_accuracy": accuracy}
        for i, (loss, accuracy) in enumerate(zip(losses, accuracies))
    ]  # fmt: skip


@pytest.fixture
def turns():
    rows = curve("adam", [4, 3, 2], [0.1, 0.5, 0.8])
    rows += curve("lion", [4, 1, 0.5], [0.1, 0.9, 0.7], seconds=1.5)
    return rows + curve("muon", [4, 3, 2.5], [0.1, 0.2, 0.3])


def test_figures_of_the_report(turns, tmp_path):
    lines = report(summaries(turns), turns, tmp_path).splitlines()
    found = {
        line.split(" | ")[0][2:]: line.split(" | ")[3:] for line in lines if "a=1" in line
    }
    assert found["adam"][:4] == ["1", "1", "1", "2"]
    # Two thirds of 1.5 s to a loss of 2, seven eighths of it to an accuracy of 0.8.
    assert found["lion"] == ["0.5", "0.333", "0.656", "0.5", "0.9", "1", "2 |"]
    assert found["muon"][:3] == ["never"] * 3


def test_a_run_is_compared_with_adams_of_the_same_seed_and_settings(turns):
    others = curve("adam", [4, 0.5], [0.1, 0.9], seed=1)
    others += [row | {"budget": 1.0} for row in curve("adam", [4, 0.5], [0.1, 0.9])]
    (lion,) = [row for row in summaries(others + turns) if row["optimizer"] == "lion"]
    assert lion["seconds_ratio"] == pytest.approx(0.5)


def test_curves_are_plotted_where_every_run_has_its_turns(turns, tmp_path):
    runs = summaries(turns)
    known = [row for row in turns if row["optimizer"] != "muon"]
    assert "No plots" in report(runs, known, tmp_path) and not list(tmp_path.iterdir())
    assert "Plots: " in report(runs[:2], known, tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.read_bytes().startswith(b"\x89PNG")
