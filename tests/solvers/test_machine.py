"""Prices are those of the machine: of a CPU as measured, of a GPU from published figures."""

import keras
import pytest
import tensorflow as tf

import keras_proxprop
from keras_proxprop import CurvatureMemory, machine, solvers
from keras_proxprop.rows.matrix import MatrixRows
from keras_proxprop.rows.patches import PatchRows
from keras_proxprop.rows.windows import Windows
from keras_proxprop.solvers.auto import ITERATIONS, Auto

L = keras.layers
# NVIDIA's figures of an A100: multiply-adds a second, bytes a second, seconds of a launch.
TENSOR_CORES, FLOAT32, MEMORY, LAUNCH = 156e12 / 2, 19.5e12 / 2, 1555e9, 5e-6


def seconds(count, features, columns):
    """Returns how long each form takes on an A100, and the layer's own backpropagation."""

    def product(multiply_adds):
        # Three products in TF32 for one of float32's accuracy.
        return 3 * multiply_adds / TENSOR_CORES

    def factor(n):
        # Below a thousand rows, launches that wait for each other take longer than n³.
        return (n**3 / 6 + n**3 / 2) / FLOAT32 * (1 + (1000 / n) ** 2)

    gram = product(count * features**2) + factor(features)
    apply = product(features**2 * columns)
    outer = product(count**2 * features) + factor(count)
    own = 3 * count * features * columns / TENSOR_CORES + 3 * LAUNCH
    # AᵀD takes two products in TF32 where it took one, and what is in its place in the dual
    # form takes three.
    right = count * features * columns / TENSOR_CORES
    side = product(count**2 * min(columns, features))
    kept = min(apply + right, product(count * features**2))
    return {
        "primal": gram + apply + right + 25 * LAUNCH,
        "dual": outer + side + 2 * right + 25 * LAUNCH,
        "memory/100": kept + gram / 100 + 8 * LAUNCH,
        "own": own,
    }


# Rows, features, columns, and the form on a CPU and on a GPU.
CHOICES = [
    (64, 785, 1000, "dual", "dual"),
    (8192, 513, 512, "primal", "primal"),
    (64, 30, 4000, "dual", "primal"),
    (1000, 800, 4000, "primal", "primal"),
    (300, 400, 1, f"cg-{ITERATIONS}", "dual"),
    (2000, 4000, 100, "dual", f"cg-{ITERATIONS}"),
    (20_000, 20_000, 10, f"cg-{ITERATIONS}", f"cg-{ITERATIONS}"),
]


def rows_of(count, features):
    return MatrixRows(tf.zeros([count, features]), bias=False)


@pytest.mark.parametrize("count, features, columns, on_cpu, on_gpu", CHOICES)
def test_the_form_is_the_fastest_by_the_figures_of_the_machine(
    count, features, columns, on_cpu, on_gpu
):
    rows, expected = rows_of(count, features), seconds(count, features, columns)
    with machine.used(machine.GPU):
        form, _ = Auto().choice(rows, columns)
        prices = solvers.Exact().prices(rows, columns, count)
    # A price counts three products in TF32.
    unit = 3 / TENSOR_CORES
    for name, price in prices.items():
        assert price * unit == pytest.approx(expected[name], rel=1e-9)
    fastest = min(prices, key=expected.get)
    slow = expected[fastest] > 30 * expected["own"]
    assert form == on_gpu == (f"cg-{ITERATIONS}" if slow else fastest)
    with machine.used(machine.CPU):
        assert Auto().choice(rows, columns)[0] == on_cpu


@pytest.mark.parametrize("count, features, columns", [c[:3] for c in CHOICES[:6]])
def test_memory_pays_where_it_is_faster_by_the_figures_of_the_machine(
    count, features, columns
):
    # What pays is decided at a batch size of 64: here an item has as many rows as it takes.
    rows = MatrixRows(tf.zeros([count, features]), False, per_item=count / 64)
    expected = seconds(count, features, columns)
    own = min(expected["primal"], expected["dual"], 30 * expected["own"])
    with machine.used(machine.GPU):
        form, _ = CurvatureMemory().solver(rows, columns, Auto()).choice(rows, columns)
    assert (form == "memory/100") == (expected["memory/100"] < own)


def test_conjugate_gradients_wait_for_their_launches():
    rows, solver = rows_of(64, 100), solvers.ConjugateGradient(4)
    with machine.used(machine.CPU):
        on_cpu = solver.prices(rows, 10, 64)
    with machine.used(machine.GPU):
        on_gpu = solver.prices(rows, 10, 64)
    for form, price in on_cpu.items():
        added = (on_gpu[form] - price) * 3 / TENSOR_CORES
        # An iteration's ten operations, and two more products for the right side.
        assert added == pytest.approx(4 * 10 * LAUNCH + 2 * 64 * 100 * 10 / TENSOR_CORES)


def test_a_copy_costs_what_memory_can_read_and_write():
    windows = Windows((3, 3), (1, 1), (1, 1), "same")
    with machine.used(machine.GPU):
        rows = PatchRows(tf.zeros([2, 32, 32, 16]), windows, bias=False)
    assert rows.matrix_cost * 3 / TENSOR_CORES == pytest.approx(9 * 16 * (4 + 4) / MEMORY)


def net():
    layers = [L.Conv2D(3, 3, name="conv"), L.Flatten(), L.Dense(2, name="last")]
    return keras.Sequential([keras.Input((5, 5, 2)), *layers], name="net")


def printed(model, device):
    lines = []
    keras_proxprop.summary(model, 60, print_fn=lines.append, device=device)
    return lines


def test_a_summary_prints_the_prices_of_the_device_that_is_asked_for():
    model = net()
    on_cpu, on_gpu = printed(model, "CPU"), printed(model, "GPU")
    assert "GPU" in on_gpu[0] and "GPU" not in on_cpu[0]
    assert on_cpu[-1] != on_gpu[-1]
    assert printed(model, None) == on_cpu or tf.config.list_logical_devices("GPU")


class Device:
    device_type = "GPU"


def test_the_machine_is_that_of_the_strategy_or_what_tensorflow_sees(monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda *_: [Device()])
    assert machine.in_force() is machine.GPU
    with tf.distribute.OneDeviceStrategy("/CPU:0").scope():
        assert machine.in_force() is machine.CPU
        model = net()
    assert "GPU" not in printed(model, None)[0]
    with machine.used(machine.CPU):
        assert machine.in_force() is machine.CPU
    assert machine.in_force() is machine.GPU
