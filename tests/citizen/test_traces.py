"""How often a training step is traced: once, where Keras with its own optimizers needs two."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_proxprop import CurvatureMemory, ProxProp

L = keras.layers
CLASSES = 3


class Counted(L.Layer):
    """Passes its inputs on, and counts how often it is traced for training."""

    def __init__(self):
        super().__init__()
        self.traces = [0]

    def call(self, x, training=None):
        self.traces[0] += bool(training) and tf.inside_function()
        return x


def layers(counted):
    norm = L.BatchNormalization()
    return [L.Conv1D(4, 3), norm, L.Flatten(), L.Dropout(0.1), counted, L.Dense(CLASSES)]


def sequential(counted):
    return keras.Sequential([keras.Input((6, 2)), *layers(counted)])


def unbuilt(counted):
    return keras.Sequential(layers(counted))


class Subclassed(keras.Model):
    """Its layers are built by its first call."""

    def __init__(self, counted):
        super().__init__()
        self.all = layers(counted)

    def call(self, x, training=None):
        for layer in self.all:
            x = layer(x)
        return x


def two_outputs(counted):
    inputs = keras.Input((6, 2))
    x = counted(L.Flatten()(L.Conv1D(4, 3)(inputs)))
    return keras.Model(inputs, [L.Dense(CLASSES, name=name)(x) for name in "ab"])


def multi(**kwargs):
    def either(variable):
        return keras.optimizers.SGD() if "conv" in variable.path else keras.optimizers.Adam()

    return ProxProp(keras.optimizers.MultiOptimizer(either), **kwargs)


MODELS = [sequential, unbuilt, Subclassed, two_outputs]
OPTIMIZERS = {
    "memory": lambda: ProxProp(memory=CurvatureMemory(layers="all")),
    "no-memory": lambda: ProxProp(memory=None),
    "averages": lambda: ProxProp(use_ema=True, gradient_accumulation_steps=2),
    "schedule": lambda: ProxProp(None, keras.optimizers.schedules.CosineDecay(0.1, 9)),
    "loss-scale": lambda: keras.optimizers.LossScaleOptimizer(ProxProp()),
    "multi": multi,
}
METRICS = {
    "none": lambda: None,
    "accuracy": lambda: ["accuracy"],
    # It makes its variables when it first sees data.
    "f1": lambda: [keras.metrics.F1Score()],
}


def compiled(make, optimizer, metrics=None):
    """Returns a model, and the list that holds the number of its traces."""
    keras.utils.set_random_seed(0)
    model = make(counted := Counted())
    if make is two_outputs:
        metrics = metrics and [metrics, metrics]
    model.compile(optimizer, "mse", metrics=metrics, jit_compile=False)
    return model, counted.traces


def batch(model, rows):
    random = np.random.default_rng(rows)
    x = random.normal(size=(rows, 6, 2)).astype("float32")
    y = np.eye(CLASSES, dtype="float32")[random.integers(CLASSES, size=rows)]
    return x, [y, y] if model.name.startswith("functional") else y


CASES = [(make, "memory", "accuracy") for make in MODELS]
CASES += [(sequential, optimizer, "accuracy") for optimizer in OPTIMIZERS]
CASES += [(sequential, "memory", metrics) for metrics in METRICS]


@pytest.mark.parametrize("make, optimizer, metrics", dict.fromkeys(CASES))
def test_the_first_fit_is_one_trace_with_a_smaller_last_batch(make, optimizer, metrics):
    model, traces = compiled(make, OPTIMIZERS[optimizer](), METRICS[metrics]())
    model.fit(*batch(model, 21), batch_size=8, epochs=2, verbose=0)
    assert traces == [1]


def test_train_on_batch_is_one_trace_for_the_batches_of_a_size():
    model, traces = compiled(sequential, ProxProp(), ["accuracy"])
    for _ in range(3):
        model.train_on_batch(*batch(model, 8))
    assert traces == [1]
    # Keras leaves the length open as soon as it sees another one.
    for rows in (5, 8, 7, 6):
        model.train_on_batch(*batch(model, rows))
    assert traces == [2]


def test_two_models_in_turns_are_traced_once_each():
    models = [compiled(sequential, ProxProp(), ["accuracy"]) for _ in range(2)]
    for _ in range(3):
        for model, _ in models:
            model.fit(*batch(model, 21), batch_size=8, verbose=0)
    assert [traces for _, traces in models] == [[1], [1]]


def test_a_changed_learning_rate_traces_nothing_anew():
    model, traces = compiled(sequential, ProxProp())
    for rate in (1e-2, 1e-3):
        model.optimizer.learning_rate = rate
        model.fit(*batch(model, 21), batch_size=8, verbose=0)
    assert traces == [1]


def test_the_variables_are_those_of_an_optimizer_that_was_built_before():
    model, _ = compiled(sequential, ProxProp(memory=None), ["accuracy"])
    before, _ = compiled(sequential, ProxProp(memory=None), ["accuracy"])
    before.optimizer.build(before.trainable_variables)
    for each in (model, before):
        each.fit(*batch(each, 21), batch_size=8, shuffle=False, verbose=0)

    assert len(model.optimizer.variables) == len(before.optimizer.variables)
    for own, other in zip(model.optimizer.variables, before.optimizer.variables):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-7)
