"""The notebook runs from top to bottom, and was committed with what it prints."""

import ast
import json
import pathlib
import re
import sys

import matplotlib
import pytest

import keras_proxprop

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
NOTEBOOK = EXAMPLES / "from_adam_to_proxprop.ipynb"
# What makes it short: part of a cell, and what is in its place.
SHORT = {"epochs = 12": "epochs = 1"}
IMPORTS = {"keras", "keras_proxprop", "matplotlib", "numpy", "sklearn", "tensorflow"}


def code_cells():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_the_cells_run_one_after_the_other(capsys):
    matplotlib.use("agg")
    source = "\n".join("".join(cell["source"]) for cell in code_cells())
    for long, short in SHORT.items():
        assert source.count(long) == 1
        source = source.replace(long, short)
    names = {"__name__": "__main__"}
    exec(compile(source, str(NOTEBOOK), "exec"), names)
    printed = capsys.readouterr().out
    assert "Rows × features" in printed and "residual" in printed
    assert (
        "ProxProp(ScheduleFreeAdam, tau='auto'" in printed and "explicit: excluded" in printed
    )
    assert len(names["proxprop"]["val_accuracy"]) == len(names["proxprop"]["seconds"]) == 1
    # What was exported says what the model says.
    assert float(re.search(r"largest difference: (\S+)", printed)[1]) < 1e-4


def test_it_uses_public_names_only():
    source = "\n".join("".join(cell["source"]) for cell in code_cells())
    nodes = list(ast.walk(ast.parse(source)))
    modules = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    modules |= {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
    assert {m.split(".")[0] for m in modules} - sys.stdlib_module_names == IMPORTS
    attributes = [n for n in nodes if isinstance(n, ast.Attribute)]
    assert not [n.attr for n in attributes if n.attr.startswith("_")]
    used = [ast.unparse(n) for n in attributes]
    names = {name.split(".")[1] for name in used if name.startswith("keras_proxprop.")}
    assert names and names <= set(keras_proxprop.__all__)


def test_curves_are_over_seconds_and_over_epochs():
    plots = [s for s in ("".join(c["source"]) for c in code_cells()) if "subplots" in s]
    assert len(plots) == 2
    assert all('xlabel="seconds"' in s and 'xlabel="epochs"' in s for s in plots)


@pytest.mark.parametrize("number", range(len(code_cells())))
def test_cells_were_committed_as_executed_and_without_errors(number):
    cell = code_cells()[number]
    assert cell["execution_count"] == number + 1
    kinds = {output.get("name", output["output_type"]) for output in cell["outputs"]}
    assert kinds <= {"stdout", "execute_result", "display_data"}
    # The training with Adam says nothing.
    assert bool(kinds) == (number != 1)
