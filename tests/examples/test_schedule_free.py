"""The Schedule-Free AdamW that examples compare with is the published one."""

import keras
import numpy as np
import pytest

from parts.schedule_free import ScheduleFreeAdamW


def _published(weights, gradient_of, rate, steps, beta_1=0.9, beta_2=0.999):
    """Returns the weights `y` after steps in float64."""
    x = y = z = weights
    squares = np.zeros_like(weights)
    for t in range(1, steps + 1):
        gradient = gradient_of(y)
        squares = beta_2 * squares + (1 - beta_2) * gradient**2
        z = z - rate * gradient / (np.sqrt(squares / (1 - beta_2**t)) + 1e-8)
        x = (1 - 1 / t) * x + z / t
        y = (1 - beta_1) * z + beta_1 * x
    return y


@pytest.mark.parametrize("columns", [1, 3])
def test_fit_takes_the_published_steps(columns):
    random = np.random.default_rng(columns)
    x, y = random.normal(size=(32, 5)), random.normal(size=(32, columns))
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(columns, use_bias=False)])
    before = model.layers[0].kernel.numpy().astype("float64")
    model.compile(ScheduleFreeAdamW(0.1), loss="mse")
    model.fit(x, y, batch_size=32, epochs=7, shuffle=False, verbose=0)

    expected = _published(before, lambda w: 2 * x.T @ (x @ w - y) / y.size, 0.1, 7)
    np.testing.assert_allclose(model.layers[0].kernel.numpy(), expected, rtol=1e-4, atol=1e-5)
