"""`examples/step_time.py` and `examples/profile_step.py` on a small net: what they print."""

import re

import keras
import pytest

import profile_step
import step_time

L = keras.layers


def small():
    layers = [L.Conv2D(3, 3, activation="relu"), L.Flatten(), L.Dense(20), L.Dense(10)]
    return keras.Sequential([keras.Input((6, 6, 1)), *layers])


@pytest.fixture(autouse=True)
def task(monkeypatch):
    monkeypatch.setitem(step_time.TASKS, "mlp64", ("a small net", small, (6, 6, 1), 8))


def test_a_line_per_optimizer_and_a_row_in_the_file(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    arguments = ["--task", "mlp64", "--optimizer", "proxprop", "--jit", "no", "--turns", "2"]
    step_time.main([*arguments, "--no-memory", "--csv", str(path)])
    found = re.findall(r"^  (\S+) +[\d.]+ ms +([\d.]+)", capsys.readouterr().out, re.M)
    # Adam is always there: it is the unit.
    assert [name for name, _ in found] == ["adam", "proxprop"] and found[0][1] == "1.00"
    assert [line.split(",")[3] for line in path.read_text().splitlines()] == [
        "adam",
        "proxprop",
    ]


def test_a_row_per_layer_but_the_last_and_what_the_solves_cost_beyond(capsys):
    profile_step.main(["--task", "mlp64", "--runs", "1"])
    printed = capsys.readouterr().out
    rows = re.findall(r"^(\w+) +([\d,]+) × ([\d,]+) +(\w+) .*\d$", printed, re.M)
    # 8 images of 16 places with 9 pixels and a bias; 8 rows of 48 features and a bias.
    assert [row[1:3] for row in rows] == [("128", "10"), ("8", "49")]
    assert {row[3] for row in rows} == {"primal", "dual"}
    assert printed.splitlines()[-1].startswith("beyond: ")
