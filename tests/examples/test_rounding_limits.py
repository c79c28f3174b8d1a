"""What the limits of a solve do to its errors."""

import pytest

import rounding
from keras_proxprop.solvers import factorization
from parts import hard_problems


@pytest.fixture(scope="module")
def few():
    return hard_problems.problems(slice(0, None, 11))


def test_a_setting_of_the_limits_is_measured_with_the_limits_that_are_set(few, monkeypatch):
    *_, largest, _, again, _ = rounding.of_steps(few)
    assert float(largest) < 2e-3
    monkeypatch.setattr(factorization, "_TOLERANCE", 1e-9)
    *_, stricter, _, more, _ = rounding.of_steps(few)
    assert float(stricter) <= float(largest) and int(more) > int(again)


def test_the_table_has_a_row_of_every_change(few, capsys):
    steps, memory = rounding.changes()
    table = rounding.table(rounding.of_memory, ["x"] * 6, memory, few[:2])
    assert len(table.splitlines()) == 3 + sum(map(len, memory.values()))
    assert "`_FLOOR`: 1e-05" in table
    # Afterwards all is as it was.
    assert factorization._FLOOR == 1e-5 and len(steps) == 9
