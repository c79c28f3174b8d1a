"""The program that predicts what a step costs on a GPU."""

import pathlib

import keras
import pytest

import limits_on_paper as limits
from keras_proxprop import CurvatureMemory, ProxProp

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "gpu.md"
L = keras.layers
# What the program takes of NVIDIA's figures: TF32 multiply-adds, bytes and launches.
TF32, BYTES, LAUNCH = 78e12, 1.555e12, 5e-6


def test_the_tables_in_the_docs_are_what_the_program_prints(capsys):
    limits.main(["--only", "MLP 4×4096", "LSTM"])
    printed = capsys.readouterr().out.splitlines()
    # Three steps, two that miss their aim, two recurrent layers, each table with its head.
    assert len(printed) == (2 + 3) + 1 + (2 + 2) + 1 + (2 + 2)
    assert set(printed) <= set(DOCS.read_text().splitlines())


def net():
    layers = [L.Dense(300), L.Dense(200, use_bias=False), L.Dense(10)]
    return keras.Sequential([keras.Input((400,)), *layers])


def test_a_step_is_counted_product_by_product():
    own, extra = limits.costs_of_step(net(), 64, ProxProp(memory=None))
    sizes = [(401, 300), (300, 200), (201, 10)]
    products = 3 * 64 * sum(features * columns for features, columns in sizes)
    assert own.multiply_adds == pytest.approx(products, rel=1e-9)
    assert own.seconds == pytest.approx(products / TF32 + 3 * 3 * LAUNCH)
    (label, first), (_, second) = extra
    assert label == "Dense 64 × 401, dual"
    exact = 64**2 * 401 + 64**2 * 300 + 2 / 3 * 64 * 401 * 300
    factor = 2 / 3 * 64**3 * TF32 / 9.75e12
    assert first.multiply_adds == pytest.approx(3 * exact + factor, rel=1e-9)
    assert first.state == second.state == 0
    # Its own launches, and those that wait for each other in the factor.
    waiting = 25 * LAUNCH + 2 / 3 * 64 * 1000**2 / 9.75e12
    assert first.waiting == pytest.approx(waiting, rel=1e-9)


def test_memory_is_state_and_spreads_its_refreshes():
    memory = CurvatureMemory(layers="all")
    _, extra = limits.costs_of_step(net(), 64, ProxProp(memory=memory))
    assert [cost.state for _, cost in extra] == [2 * 4 * 401**2, 2 * 4 * 300**2]
    assert all(label.endswith("memory/100") for label, _ in extra)
    matrix, weights = 401**2, 401 * 300
    refresh = 3 * (64 * 400 + matrix) + 6 * matrix
    # The product with the inverse comes first, and `AᵀD` is as in an explicit step.
    numbers = refresh / 100 + 3 * (matrix + 2 * weights)
    assert extra[0][1].bytes == pytest.approx(4 * numbers, rel=1e-9)


def test_an_optimizer_reads_and_writes_weights_and_two_numbers_for_each():
    cost = limits.around(net(), 64)
    outputs, weights = 64 * (300 + 200 + 10), net().count_params()
    assert cost.bytes == 4 * (5 * outputs + 7 * weights)
    assert cost.state == 8 * weights
