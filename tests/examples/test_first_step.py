"""`examples/first_step.py`: what it measures, goes on with, and prints."""

import keras
import pytest

import first_step
from parts import results


def cells(printed):
    lines = [line for line in printed.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]


def test_the_quick_form_measures_in_a_process_of_its_own_and_goes_on(tmp_path, capsys):
    path = tmp_path / "first_step.csv"
    arguments = ["--quick", "--net", "mlp", "--out", str(path)]
    first_step.main([*arguments, "--optimizer", "Adam"])
    (adam,) = results.read(path)
    assert 0 < adam["median"] <= adam["longest"] < adam["first"] < adam["all"]
    first_step.main([*arguments, "--optimizer", "Adam", "memory=None"])
    # Adam's was there.
    assert capsys.readouterr().out.count("first step ") == 2
    assert [row["optimizer"] for row in results.read(path)] == ["Adam", "memory=None"]


def test_the_table_has_medians_over_turns_and_ratios_to_adams(tmp_path, capsys):
    def rows(optimizer, *firsts):
        return [
            dict(zip(first_step.KEYS, ("vit", 1, 100, turn, optimizer)))
            | {"first": first, "all": 2 * first, "longest": 0.3, "median": 0.1}
            for turn, first in enumerate(firsts)
        ]

    path = tmp_path / "first_step.csv"
    results.append(path, rows("Adam", 1.0, 9.0, 2.0) + rows("ProxProp()", 3.0, 3.0, 8.0))
    first_step.main(["--report", "--out", str(path)])
    assert cells(capsys.readouterr().out) == [
        ["small ViT", "yes", "100", "Adam", "2.00", "4.00", "3.0"],
        ["small ViT", "yes", "100", "ProxProp()", "3.00 [1.50]", "6.00 [1.50]", "3.0"],
    ]


# The large ones take a minute to build.
@pytest.mark.parametrize("net", sorted(set(first_step.NETS) - set(first_step.LARGE)))
def test_every_net_has_ten_classes_for_its_inputs(net):
    _, make, shape = first_step.NETS[net]
    assert make().compute_output_shape((None, *shape)) == (None, 10)
    keras.backend.clear_session()
