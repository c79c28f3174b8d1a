"""A last batch that is smaller, and several steps at once, change no step."""

import keras
import pytest
from helpers import assert_close_weights, weights_of
from training_cases import TAU, compiled, crossentropy, data, fit, mlp, sgd_step

from keras_proxprop import ProxProp


class Counting(keras.Model):
    """Counts how often its training step is traced."""

    traces = 0

    def train_step(self, data):
        type(self).traces += 1
        return super().train_step(data)


@pytest.mark.parametrize("mode", ["graph", "default"])
def test_a_smaller_last_batch_is_traced_no_more_often_than_with_adam(mode):
    x, y = data(20)
    traces = []
    for optimizer in (ProxProp(), keras.optimizers.Adam()):
        inputs = keras.Input((5,))
        hidden = keras.layers.Dense(7, "relu")(inputs)
        model = compiled(Counting(inputs, keras.layers.Dense(3)(hidden)), optimizer, mode)
        Counting.traces = 0
        fit(model, x, y, epochs=2)
        traces.append(Counting.traces)
    assert 1 == traces[0] <= traces[1] <= 2


@pytest.mark.parametrize("mode", ["eager", "graph", "default"])
def test_a_smaller_last_batch_takes_its_own_exact_step(mode):
    # 24 rows of 6 features are solved in primal form, 2 rows in dual form.
    x, y = data(26)
    model = compiled(mlp(), ProxProp("sgd", 1.0, tau=TAU, memory=None), mode)
    reference = mlp()
    for rows in (slice(24), slice(24, 26)):
        step = sgd_step(
            reference, x[rows], lambda: crossentropy()(y[rows], reference(x[rows]))
        )
        reference.set_weights(step)
    fit(model, x, y, batch_size=24)
    assert_close_weights(weights_of(model), weights_of(reference), 1e-4)


def test_several_steps_per_execution_are_the_same_steps():
    x, y = data()
    models = [compiled(mlp(), ProxProp(), steps_per_execution=steps) for steps in (1, 3)]
    for model in models:
        fit(model, x, y, epochs=2)
    assert_close_weights(*map(weights_of, models), 1e-6)
