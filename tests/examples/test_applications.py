"""Architectures of keras.applications, and the program that goes through all of them."""

import csv
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import applications
import keras_proxprop
from keras_proxprop.reports.summary import layer_reports

PROGRAM = pathlib.Path(applications.__file__)


def run(*arguments):
    command = [sys.executable, PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


# One of each make: their like are in APPLICATIONS.md.
@pytest.mark.parametrize("name", ["MobileNetV3Small", "ResNet50"])
def test_one_step_of_an_architecture(name):
    pixels = applications.SMALLEST.get(name, 32)
    model = applications.ARCHITECTURES[name](
        weights=None, input_shape=(pixels, pixels, 3), classes=10
    )
    reports = layer_reports(model, batch_size=2)
    explicit = [r.step for r in reports if r.step != "implicit"]
    assert explicit == ["explicit: final layer"]
    before = [w.numpy() for w in model.trainable_weights]
    # Op by op: building the graph would take most of the time.
    model.compile(
        keras_proxprop.ProxProp(), "sparse_categorical_crossentropy", run_eagerly=True
    )
    x = np.random.default_rng(0).random((2, pixels, pixels, 3), dtype="float32")
    model.train_on_batch(255 * x, np.array([1, 7]))
    assert all(np.all(np.isfinite(w)) for w in model.weights)
    still = [
        w.path
        for w, old in zip(model.trainable_weights, before)
        if np.array_equal(w.numpy(), old)
    ]
    assert not still


def test_program_writes_a_row_per_model_and_resumes(tmp_path):
    table = tmp_path / "rows.csv"
    arguments = ("--only", "MobileNetV3Small", "--no-step", "--csv", str(table))
    first = run(*arguments)
    assert first.returncode == 0, first.stderr
    assert "1 Conv2D: final layer" in first.stdout
    again = run(*arguments)
    assert "already" in again.stdout
    with table.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["model"] == "MobileNetV3Small"
    assert int(row["implicit_layers"]) == int(row["layers"]) - 1


@pytest.mark.parametrize("no_step, asked", [(False, ["VGG16", "VGG19"]), (True, ["VGG19"])])
def test_a_row_without_a_step_is_made_again_where_one_is_asked_for(
    no_step, asked, tmp_path, monkeypatch
):
    path, made = tmp_path / "rows.csv", []
    reported = {"model": "VGG16", "pixels": 32, "weights": 100, "layers": 3}
    reported |= {"implicit_weights": 75, "implicit_layers": 2, "explicit": "1 Dense: final"}
    stepped = {**reported, "model": "MobileNet", "step": "finite", "first_step_s": 1.5}
    applications.write(path, {"VGG16": reported, "MobileNet": stepped})

    def run(name, args):
        made.append(name)
        return {"model": name, "pixels": 32, "step": "does not fit in 1.0 GiB"}

    monkeypatch.setattr(applications, "run", run)
    command = ["applications.py", "--only", "VGG19", "VGG16", "MobileNet", "--csv", str(path)]
    command += ["--table", str(tmp_path / "table.md")] + ["--no-step"] * no_step
    monkeypatch.setattr(sys, "argv", command)
    applications.main()
    assert sorted(made) == asked
    rows = applications.read(path)
    assert list(rows) == ["MobileNet", "VGG16", "VGG19"]
    # What was known of a model is not lost to a step that comes to nothing.
    assert rows["VGG16"]["weights"] == 100
    assert rows["VGG16"]["step"] == ("" if no_step else "does not fit in 1.0 GiB")
    assert rows["MobileNet"]["first_step_s"] == 1.5
    page = (tmp_path / "table.md").read_text()
    assert "of 1 of the 3 models" in page
    assert "| `MobileNet` | 32 | 100 | 75.00% | 3 | 2 |" in page
    assert "| 1 Dense: final | finite | 1.5 |" in page


def test_a_model_too_large_for_the_memory_says_so(tmp_path):
    table = tmp_path / "rows.csv"
    # TensorFlow alone is larger.
    process = run("--only", "VGG16", "VGG19", "--memory", "0.2", "--csv", str(table))
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("does not fit in 0.2 GiB") == 2
    with table.open(newline="") as file:
        assert [row["model"] for row in csv.DictReader(file)] == ["VGG16", "VGG19"]


def test_list_names_every_architecture():
    names = run("--list").stdout.split()
    made = {"ResNet50", "VGG16", "ConvNeXtTiny", "NASNetLarge", "EfficientNetV2B0"}
    assert made < set(names) <= set(dir(keras.applications))
