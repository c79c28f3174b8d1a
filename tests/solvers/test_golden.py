"""The directions of a Keras model against the golden numbers, in float64.

`linear_*` come from the authors' code, `conv_*` from a dense solve. They store a layer's
inputs, weights and `∂L/∂z`; the loss `Σ z · ∂L/∂z` makes a model's layer see the latter.
"""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close

from keras_proxprop import ImplicitGradientTape, solvers

GOLDEN = pathlib.Path(__file__).parent / "golden"
EXACT = 1e-9
# The authors add 1e-6 to the denominators of conjugate gradients.
CG = 1e-5
TAUS = [0.05, 1]
SOLVERS = {
    "auto": "auto",
    "exact": "exact",
    "primal": solvers.Exact("primal"),
    "dual": solvers.Exact("dual"),
}


class Golden:
    """One file of golden numbers, in Keras's layouts, with a layer that holds its weights."""

    def __init__(self, name):
        self.arrays = np.load(GOLDEN / f"{name}.npz")
        self.input = self.channels_last(self.arrays["input"])
        self.output = self.channels_last(self.arrays["output"])
        self.output_gradient = self.channels_last(self.arrays["output_gradient"])
        units = len(self.arrays["bias"])
        if name.startswith("linear"):
            self.layer = keras.layers.Dense(units, dtype="float64")
        else:
            same = name == "conv_same"
            self.layer = keras.layers.Conv2D(
                units,
                3,
                strides=1 if same else 2,
                padding="same" if same else "valid",
                dtype="float64",
            )
        self.layer.build(self.input.shape)
        self.layer.set_weights([self.kernel("weight"), self.arrays["bias"]])

    @staticmethod
    def channels_last(array):
        return np.moveaxis(array, 1, -1)

    def kernel(self, key):
        array = self.arrays[key]
        return array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)

    def expected(self, tau, mode):
        key = f"tau{tau}_{mode}"
        return self.kernel(f"{key}_weight"), self.arrays[f"{key}_bias"]

    def hidden(self):
        """Returns a model in which an identity follows the layer, as its final layer."""
        units = len(self.arrays["bias"])
        identity = keras.layers.Dense(units, use_bias=False, dtype="float64")
        identity.build((None, units))
        identity.set_weights([np.eye(units)])
        return self.model(self.layer, identity)

    def model(self, *layers):
        return keras.Sequential([keras.Input(self.input.shape[1:], dtype="float64"), *layers])

    def directions(self, model, **arguments):
        with ImplicitGradientTape(model, **arguments) as tape:
            loss = tf.reduce_sum(model(tf.constant(self.input)) * self.output_gradient)
        return tape.gradient(loss, [self.layer.kernel, self.layer.bias])


@pytest.fixture(params=["linear_wide", "linear_tall", "conv_same", "conv_strided"])
def golden(request):
    return Golden(request.param)


@pytest.fixture(params=["linear_wide", "linear_tall"])
def linear(request):
    return Golden(request.param)


def assert_directions(actual, expected, tolerance):
    for part, golden_part in zip(actual, expected):
        assert part.dtype == tf.float64
        assert_close(part, golden_part, tolerance)


def test_layers_compute_the_golden_output(golden):
    assert_close(golden.model(golden.layer)(golden.input), golden.output, 1e-12)


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_exact_step_of_a_hidden_layer_is_golden(golden, solver, tau):
    actual = golden.directions(golden.hidden(), tau=tau, solver=SOLVERS[solver])
    assert_directions(actual, golden.expected(tau, "prox_exact"), EXACT)


def test_exact_step_of_an_implicit_final_layer_is_golden(golden):
    model = golden.model(golden.layer)
    actual = golden.directions(model, tau=0.05, final_layer="implicit")
    assert_directions(actual, golden.expected(0.05, "prox_exact"), EXACT)


def test_exact_step_in_a_graph_is_golden(golden):
    model = golden.hidden()
    actual = tf.function(lambda: golden.directions(model, tau=0.05))()
    assert_directions(actual, golden.expected(0.05, "prox_exact"), EXACT)


@pytest.mark.filterwarnings("ignore:No layer of model")
@pytest.mark.parametrize("why", ["excluded", "final"])
def test_explicit_step_is_the_golden_gradient(golden, why):
    if why == "excluded":
        actual = golden.directions(golden.hidden(), exclude=[golden.layer])
    else:
        actual = golden.directions(golden.model(golden.layer))
    assert_directions(actual, golden.expected(0.05, "gradient"), EXACT)


@pytest.mark.parametrize("tau", TAUS)
def test_one_cg_iteration_is_golden(linear, tau):
    solver = solvers.ConjugateGradient(iterations=1)
    actual = linear.directions(linear.hidden(), tau=tau, solver=solver)
    assert_directions(actual, linear.expected(tau, "prox_cg1"), CG)


def test_gradient_that_flows_on_is_golden(golden):
    model = golden.hidden()
    x = tf.constant(golden.input)
    with ImplicitGradientTape(model) as tape:
        tape.watch(x)
        loss = tf.reduce_sum(model(x) * golden.output_gradient)
    actual, _ = tape.gradient(loss, [x, golden.layer.kernel])
    assert_close(actual, golden.channels_last(golden.arrays["input_gradient"]), EXACT)
