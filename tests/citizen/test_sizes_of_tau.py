"""Steps are finite with a τ of any size."""

import keras
import numpy as np
import pytest
from helpers import weights_of
from scenarios import compiled, fit, mlp

from keras_proxprop import CurvatureMemory, ProxProp, solvers

SOLVERS = {
    "exact": {"solver": "exact", "memory": None},
    "primal": {"solver": solvers.Exact("primal"), "memory": None},
    "cg": {"solver": "cg", "memory": None},
    "memory": {"memory": CurvatureMemory(layers="all")},
}


@pytest.mark.parametrize("exponent", [-30, -29, -20, 20, 37, 38, 39, 60])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.filterwarnings("ignore:.*damped")
def test_every_tau_of_any_size_makes_finite_steps(solver, exponent):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4), keras.layers.LayerNormalization(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((5,)), *layers])
    optimizer = ProxProp("sgd", 1e-3, tau=10.0**exponent, **SOLVERS[solver])
    fit(compiled(model, optimizer, run_eagerly=True))
    assert all(np.isfinite(w).all() for w in weights_of(model))


@pytest.mark.parametrize("tau", [0.0, 1e-45, 1e-39])
def test_a_tau_that_falls_to_nothing_makes_no_step_and_no_nan(tau):
    # A schedule's values are not known before: the smallest that a number may be is taken.
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [1.0, tau])
    model = compiled(mlp(), ProxProp("sgd", 1.0, tau=schedule, memory=None))
    fit(model)
    assert all(np.isfinite(w).all() for w in weights_of(model))
