"""The check for a GPU, in a part of its short form: what it holds, and what it counts."""

import json

import numpy as np
import pytest
from keras import layers
from tensorflow.tsl.profiler.protobuf import xplane_pb2

import gpu_check
from parts import gpu_directions, gpu_times


def alike():
    """Features of which two are nearly one."""
    x = np.random.default_rng(0).normal(size=(30, 4))
    return np.column_stack([x, x[:, :1] + 1e-6 * x[:, 1:2]])


@pytest.fixture
def small(monkeypatch):
    found = {
        "dense": (lambda: layers.Dense(3), lambda: np.eye(4) + 1),
        "alike": (lambda: layers.Dense(3), alike),
    }
    monkeypatch.setattr(gpu_directions, "LAYERS", found)
    monkeypatch.setitem(gpu_check.QUICK, "layers", list(found))
    monkeypatch.setitem(gpu_check.QUICK, "taus", [1e7])


def test_directions_are_held_to_float64_and_solves_are_counted(small, tmp_path, capsys):
    path = tmp_path / "found.json"
    assert not gpu_check.main(["--quick", "--only", "layers", "--out", str(path)])
    found = json.loads(path.read_text())
    assert len(found) == 2 * 2 and all(each["ok"] for each in found.values())
    in_float64 = {name: each["in float64"] for name, each in found.items()}
    assert {n for name, n in in_float64.items() if "dense" in name} == {0}
    assert {n for name, n in in_float64.items() if "alike" in name} == {1}
    assert {each["solves"] for each in found.values()} == {1}
    assert "FAIL" not in capsys.readouterr().out


def test_an_error_above_what_is_allowed_is_a_failure(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_directions, "LAYER_TOLERANCE", 0.0)
    monkeypatch.setattr(gpu_directions, "TIMES_FLOAT32", 0.0)
    assert gpu_check.main(["--quick", "--only", "layers", "--out", str(tmp_path / "found")])
    assert "FAIL dense" in capsys.readouterr().out


def test_what_is_not_a_number_is_an_error():
    one, none = np.ones(2), np.array([1.0, np.nan])
    assert gpu_directions._error([one, one], [one, one]) == 0
    assert np.isnan(gpu_directions._error([one, none, one], [one, one, one]))


def test_steps_are_told_in_units_of_adams(tmp_path, monkeypatch):
    monkeypatch.setitem(gpu_check.QUICK, "steps", [("rows", 2)])
    path = tmp_path / "found.json"
    gpu_check.main(["--quick", "--only", "steps", "--out", str(path)])
    adam, proxprop = json.loads(path.read_text()).values()
    assert adam["over_adam"] == 1 and proxprop["ms"] > 0


def test_a_profile_counts_kernels_and_copies_of_the_gpu_alone():
    space = xplane_pb2.XSpace()
    for device in ("/device:GPU:0", "/host:CPU"):
        plane = space.planes.add(name=device)
        for number, name in enumerate(("ampere_dgemm", "MemcpyD2H", "MemcpyH2D", "fusion"), 1):
            plane.event_metadata[number].name = name
        for line in ("Stream #1", "Steps"):
            line = plane.lines.add(name=line)
            for number in (1, 2, 3, 4, 4):
                line.events.add(metadata_id=number, duration_ps=10**9)
    expected = {"kernels": 3, "float64": 1, "to_host": 1, "from_host": 1, "busy_ms": 5}
    assert gpu_times._counted(space) == expected
