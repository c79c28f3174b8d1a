"""SOAP against its algorithm written in NumPy."""

import functools

import keras
import numpy as np
import pytest

from parts.soap import SOAP


def reference(w, gradients, rate, beta, every):
    """Returns a weight after steps with these gradients, in float64."""
    axes = range(w.ndim) if w.ndim > 1 else ()
    mean, square = np.zeros_like(w), np.zeros_like(w)
    bases = grams = None

    def turned(tensor, back):
        for axis in axes:
            basis = bases[axis] if back else bases[axis].T
            tensor = np.moveaxis(np.tensordot(basis, tensor, [[1], [axis]]), 0, axis)
        return tensor

    for step, g in enumerate(gradients):
        outer = [
            np.tensordot(g, g, [[b for b in axes if b != a]] * 2) if axes else None
            for a in axes
        ]
        if not step:
            grams = outer
            bases = [np.linalg.eigh(gram)[1][:, ::-1] for gram in grams]
            continue
        mean = beta * mean + (1 - beta) * g
        square = beta * square + (1 - beta) * turned(g, back=False) ** 2
        m, v = mean / (1 - beta**step), square / (1 - beta**step)
        quotient = turned(m, back=False) / (np.sqrt(v) + 1e-30)
        w = w - rate * turned(quotient, back=True)
        grams = [beta * old + (1 - beta) * new for old, new in zip(grams, outer)]
        if step % every == 0:
            for axis in axes:
                power = grams[axis] @ bases[axis]
                order = np.argsort(-np.sum(bases[axis] * power, axis=0))
                square = np.take(square, order, axis=axis)
                bases[axis] = np.linalg.qr(power[:, order])[0]
    return w


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (5,)])
def test_it_steps_as_its_algorithm_says(shape):
    random = np.random.default_rng(0)
    # Of very different scale along the axes, so that eigenvectors are sure of themselves.
    scale = functools.reduce(np.multiply.outer, [3.0 ** -np.arange(n) for n in shape])
    gradients = random.normal(size=(9, *shape)) * scale
    w = random.normal(size=shape)
    variable = keras.Variable(w.astype("float32"))
    soap = SOAP(0.1, weight_decay=None, precondition_frequency=4, epsilon=1e-30)
    for g in gradients:
        soap.apply_gradients([(g.astype("float32"), variable)])
    expected = reference(w, gradients, 0.1, 0.95, 4)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("axis", [0, 1])
def test_it_may_have_a_basis_for_one_axis_only(axis):
    soap = SOAP(0.1, axes=(axis,))
    soap.build([keras.Variable(np.ones((6, 3), "float32")), keras.Variable(np.ones(4))])
    sizes = [tuple(v.shape) for v in soap.variables if v.path.split("/")[-1][:4] == "axis"]
    assert sizes == [((6, 6), (3, 3))[axis]] * 2


def test_an_axis_that_is_too_long_has_no_basis_and_its_config_is_whole():
    soap = SOAP(0.1, max_precond_dim=4, precondition_frequency=3)
    assert SOAP.from_config(soap.get_config()).get_config() == soap.get_config()
    variable = keras.Variable(np.ones((6, 3), "float32"))
    soap.build([variable])
    assert sorted(tuple(v.shape) for v in soap.variables)[2:] == [(3, 3)] * 2 + [(6, 3)] * 2
    random = np.random.default_rng(0)
    for _ in range(5):
        soap.apply_gradients([(random.normal(size=(6, 3)).astype("float32"), variable)])
    assert np.isfinite(variable.numpy()).all() and (variable.numpy() != 1).all()
