"""The table that says what averages bring and what directions do."""

import math

import pytest

from parts import everyday_shares
from parts.everyday_report import Compared
from parts.everyday_shares import shares


def compared(losses):
    """Returns a task with these losses, `{(contender, schedule): losses over two rates}`."""
    empty = {"seed": 0, "best_val_loss": 1.0}
    return Compared(
        [
            empty | {"contender": name, "schedule": schedule, "rate": rate, "loss": loss}
            for (name, schedule), own in losses.items()
            for rate, loss in enumerate(own)
        ]
    )


def test_the_mean_is_geometric_and_over_the_tasks_that_have_all():
    kinds = everyday_shares._KINDS.values()
    first = {kind: [1.0, 0.5 if kind[0] == "proxprop" else 2.0] for kind in kinds}
    second = {kind: [0.2 if kind[0] == "proxprop" else 0.1, math.nan] for kind in kinds}
    no_mistakes = {kind: [1e-5, 1e-6] for kind in kinds}
    zero = {kind: [0.0 if kind[0] == "proxprop-adam" else 1.0] for kind in kinds}
    some = {("adam", "constant"): [1.0]}
    tasks = dict(enumerate(map(compared, [first, second, no_mistakes, zero, some])))
    lines = shares(tasks).splitlines()
    assert "the 2 tasks" in lines[2]
    cells = [[cell.strip() for cell in line.split("|")[2:4]] for line in lines[6:]]
    assert cells == [["1", "0 of 2"]] * 6 + [["1", "1 of 2"]]
    assert shares({0: compared(some)}) == ""


def test_another_mean():
    tasks = {0: compared({kind: [1.0] for kind in everyday_shares._KINDS.values()})}
    tasks[1] = compared(
        {kind: [4.0 ** -(i > 1)] for i, kind in enumerate(everyday_shares._KINDS.values())}
    )
    cells = [line.split("|")[2] for line in shares(tasks).splitlines()[6:]]
    assert [float(cell) for cell in cells] == pytest.approx([1, 1, *[0.5] * 5])
