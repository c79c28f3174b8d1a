"""The tables and pictures of the pages come from the rows that lie beside them."""

import pathlib
import re

import pytest

import applications
import everyday
import everyday_defaults
import first_step
import time_to_target
from parts import results
from parts.applications_page import page
from parts.paper_claims import report

ROOT = pathlib.Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "examples" / "benchmarks"
README = (ROOT / "README.md").read_text()
WHEN_IT_HELPS = (ROOT / "docs" / "when-it-helps.md").read_text()


def tables(text):
    return re.findall(r"^(?:\|.*\n)+", text + "\n", re.M)


@pytest.mark.parametrize(
    "folder, budget, tasks",
    [
        ("time_to_target", 30, ["mlp64", "convnet"]),
        ("time_to_target", 20, ["mlp500", "autoencoder"]),
        ("time_to_target", 15, ["resnet", "vit"]),
        ("time_to_target_default", 30, ["mlp64", "convnet"]),
        ("time_to_target_default", 20, ["mlp500", "autoencoder"]),
        ("time_to_target_default", 15, ["resnet", "vit"]),
        ("time_to_target_default", 10, ["sequence"]),
    ],
)
def test_tables_of_the_benchmark(folder, budget, tasks, tmp_path, capsys):
    (tmp_path / "summary.csv").write_bytes((BENCHMARKS / folder / "summary.csv").read_bytes())
    arguments = ["--report", "--budget", str(budget), "--out", str(tmp_path), "--task", *tasks]
    time_to_target.main(arguments)
    made = tables(capsys.readouterr().out)
    assert len(made) == len(tasks)
    known = tables((BENCHMARKS / "RESULTS.md").read_text())
    assert all(table in known for table in made)


def copy_runs(folder):
    for name in ("runs.csv", "step_times.csv"):
        (folder / name).write_bytes((BENCHMARKS / "everyday" / name).read_bytes())


def test_tables_of_the_everyday_tasks(tmp_path, capsys):
    rows = results.read(BENCHMARKS / "everyday" / "runs.csv")
    copy_runs(tmp_path)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    names = list(dict.fromkeys(row["contender"] for row in rows))
    arguments = ["--out", str(tmp_path), "--tasks", *tasks, "--contenders", *names]
    everyday.main(["--report", *arguments])
    made = tables(capsys.readouterr().out)
    page = (BENCHMARKS / "EVERYDAY.md").read_text()
    assert len(made) == 5 and all(table in page for table in made)


def test_the_table_of_the_defaults():
    rows = results.read(BENCHMARKS / "everyday" / "defaults.csv")
    (made,) = tables(everyday_defaults.report(rows))
    assert made in (BENCHMARKS / "RESULTS.md").read_text()


def test_the_table_of_first_steps():
    rows = results.read(BENCHMARKS / "first_step.csv")
    (made,) = tables(first_step.table(rows))
    assert made in (ROOT / "docs" / "cost.md").read_text()


def test_the_readmes_short_table(tmp_path, capsys):
    copy_runs(tmp_path)
    everyday.main(["--short", "--out", str(tmp_path)])
    assert (tmp_path / "everyday_curves.png").exists()
    (made,) = tables(capsys.readouterr().out)
    # A head, a rule, and five tasks.
    assert made.count("\n") == 7 and made in README


def test_the_readme_says_on_how_many_tasks_it_is_sooner():
    page = (BENCHMARKS / "EVERYDAY.md").read_text()
    (floors,) = [t for t in tables(page) if "seconds to constant Adam's loss" in t]
    head, _, *rows = ([c.strip(" *") for c in row.split("|")] for row in floors.splitlines())
    column = head.index("seconds to constant Adam's loss / Adam's")
    seconds = [float(row[column].replace("never", "inf")) for row in rows]
    said = re.search(r"On (\d+) of (\d+) small tasks", README).groups()
    assert tuple(map(int, said)) == (sum(s <= 2 / 3 for s in seconds), len(seconds))


def test_every_turn_of_the_pictured_runs_is_known(tmp_path, capsys):
    for path in (BENCHMARKS / "time_to_target").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    arguments = ["--task", "convnet", "--optimizer", "adam", "proxprop-untuned"]
    time_to_target.main(["--report", "--out", str(tmp_path), *arguments])
    assert "fashion_mnist_convnet.png" in capsys.readouterr().out
    assert (tmp_path / "fashion_mnist_convnet.png").exists()


@pytest.mark.parametrize(
    "start, figure", [("seconds", "seconds_ratio"), ("epochs", "epochs_ratio")]
)
def test_medians_of_when_it_helps(start, figure):
    lines = WHEN_IT_HELPS.splitlines()
    (line,) = [line for line in lines if line.startswith(f"| {start} |")]
    rows = results.read(BENCHMARKS / "time_to_target_default" / "summary.csv")
    untuned = [r for r in rows if r["optimizer"] == "proxprop-untuned"]
    expected = []
    for task in ("mlp64", "mlp500", "autoencoder", "convnet", "resnet", "vit"):
        own = [r[figure] for r in untuned if r["task"] == task]
        assert len(own) == 3
        expected.append(f"{results.median(own):.2f}")
    assert re.findall(r"\d\.\d\d", line) == expected


@pytest.mark.parametrize("name", ["fashion_mnist_mlp", "fashion_mnist_convnet"])
def test_tables_of_the_paper(name):
    folder = ROOT / "examples" / "paper"
    made = tables(report(results.read(folder / f"{name}.csv"), name))
    known = tables((folder / "RESULTS.md").read_text())
    assert len(made) == 2 and all(table in known for table in made)


def test_the_page_of_all_applications():
    rows = applications.read(ROOT / "examples" / "applications.csv")
    assert page(rows.values()) == (ROOT / "examples" / "APPLICATIONS.md").read_text()
