"""Which replica inverts which of the averaged Gram matrices."""

import pytest

from keras_proxprop.memory.inverses import owners


@pytest.mark.parametrize("number", [1, 2, 4, 16])
def test_every_matrix_has_an_owner_and_none_does_far_more_than_its_part(number):
    costs = [size**3 for size in (65, 577, 4609, 769, 769, 3073, 257, 2305, 769, 4609)]
    found = owners(costs, number)
    work = [sum(c for c, own in zip(costs, found) if own == i) for i in range(number)]
    assert sum(work) == sum(costs)
    assert max(work) <= max(4 / 3 * sum(costs) / number, max(costs))
