"""The soak, in a short form, and what it calls wrong."""

import dataclasses

import pytest

import soak

GOOD = [soak.Part(100 * i, i, 2 / (i + 1), True, 900 + i, 2) for i in range(1, 11)]
BAD = {
    "is not finite": {"finite": False},
    "the process grew by": {"megabytes": 1200.0},
    "The loss went from": {"loss": 1.0},
    "was traced again": {"traces": 3},
}


def test_a_few_hundred_steps_of_a_net_of_many_layers_have_no_faults():
    seen = []
    parts = soak.soak(240, seen=seen.append)
    assert soak.faults(parts) == []
    assert seen == parts and parts[-1].steps == 240


@pytest.mark.parametrize("says", BAD)
def test_a_fault_is_told(says):
    bad = dataclasses.replace(GOOD[-1], **BAD[says])
    assert soak.faults(GOOD) == []
    (fault,) = soak.faults([*GOOD[:-1], bad])
    assert says in fault
