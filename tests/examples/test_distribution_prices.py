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
    assert prices.of_the_busiest([9, 100, 9, 9], 2, 1) == [100]
    assert prices.of_the_busiest([9, 9, 9], 2, 1) == [9, 9]
    # Small ones are every replica's own.
    assert prices.of_the_busiest([9, 100, 9, 100], 2, 50) == [100, 9, 9]
