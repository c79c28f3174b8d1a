"""The notebook runs from top to bottom, and was committed with what it prints."""

import json
import pathlib

import matplotlib
import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
NOTEBOOK = EXAMPLES / "from_adam_to_proxprop.ipynb"
# What makes it short: part of a cell, and what is in its place.
SHORT = {
    "epochs = 12": "epochs = 1",
    'for tau in ("auto", 1e-3, 0.1, 1.0, 10.0)': "for tau in (10.0,)",
}


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
    assert printed.count("conv2d") >= 6 and "ProxProp(ScheduleFreeAdam, tau='auto'" in printed
    assert len(names["history"]["val_accuracy"]) == 1


@pytest.mark.parametrize("number", range(len(code_cells())))
def test_cells_were_committed_as_executed_and_without_errors(number):
    cell = code_cells()[number]
    assert cell["execution_count"] == number + 1
    kinds = {output.get("name", output["output_type"]) for output in cell["outputs"]}
    assert kinds <= {"stdout", "execute_result", "display_data"}
    # The training with Adam says nothing.
    assert bool(kinds) == (number != 1)
