"""The program that predicts what a step costs on many GPUs."""

import pathlib

import keras
import pytest

import distribution_prices as prices

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "distribution.md"
L = keras.layers


def test_the_table_in_the_docs_is_what_the_program_prints(capsys):
    prices.main(["--only", "ResNet50"])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + 2 * 4
    assert set(printed) <= set(DOCS.read_text().splitlines())


def test_gradients_matrices_and_inverses_are_counted_each_once():
    inputs = keras.Input((8, 3))
    x = L.Conv1D(4, 3, padding="same")(inputs)
    # Three projections of one input share a Gram matrix; the fourth has its own.
    x = L.MultiHeadAttention(1, 4)(x, x)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
    _, _, gradients, matrices, sizes = prices.counted(model, 4)
    assert sorted(sizes) == [5, 5, 10]
    assert gradients == pytest.approx(4 * model.count_params())
    assert matrices == pytest.approx(4 * (15 + 15 + 55) / prices.REFRESH_EVERY)


def test_the_busiest_replica_inverts_the_largest_matrix_or_several_small_ones():
    # So large that what an inverse costs is not its latency.
    small, large = 1000, 8000
    assert prices.of_the_busiest([small, large, small, small], 2, 1) == [large]
    assert prices.of_the_busiest([small] * 3, 2, 1) == [small] * 2
    # Small ones are every replica's own.
    mixed = [small, large, small, large]
    assert prices.of_the_busiest(mixed, 2, 5000) == [large, small, small]
