"""What `fit` offers works with ProxProp as it does with any other optimizer."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close, assert_close_weights, assert_equal_weights, weights_of
from training_cases import TAU, compiled, crossentropy, data, fit, mlp, sgd_step

from keras_proxprop import ProxProp


def crossentropy_metric():
    return keras.metrics.SparseCategoricalCrossentropy(from_logits=True)


WEIGHTINGS = {
    "sample_weight": {"sample_weight": np.linspace(0, 2, 24)},
    "class_weight": {"class_weight": {0: 0.1, 1: 1.0, 2: 3.0}},
}


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weights_of_samples_and_classes_reach_loss_and_metrics_as_with_adam(name):
    x, y = data()
    logs = {}
    for optimizer in (ProxProp("adam"), keras.optimizers.Adam()):
        metrics = {"metrics": ["accuracy"], "weighted_metrics": [crossentropy_metric()]}
        model = compiled(mlp(), optimizer, **metrics)
        logs[type(optimizer)] = fit(model, x, y, batch_size=24, **WEIGHTINGS[name]).history
    assert logs[ProxProp] == logs[keras.optimizers.Adam]
    assert len(logs[ProxProp]) == 3


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weights_of_samples_and_classes_are_in_the_step(name):
    x, y = data()
    model = compiled(mlp(), ProxProp("sgd", 1.0, tau=TAU, memory=None))
    weighting = WEIGHTINGS[name]
    w = weighting.get("sample_weight")
    w = np.array([weighting["class_weight"][c] for c in y]) if w is None else w
    expected = sgd_step(model, x, lambda: crossentropy()(y, model(x), sample_weight=w))
    fit(model, x, y, batch_size=24, **weighting)
    assert_close_weights(weights_of(model), expected, 1e-5)


def test_regularizers_are_preconditioned_with_the_rest_of_the_gradient():
    x, y = data()
    model = mlp(
        kernel_regularizer=keras.regularizers.L2(0.3),
        bias_regularizer="l1",
        activity_regularizer="l2",
    )
    model.get_layer("hidden").bias.assign(np.linspace(-1, 1, 7))
    expected = sgd_step(model, x, lambda: crossentropy()(y, model(x)) + tf.add_n(model.losses))
    log = fit(
        compiled(model, ProxProp("sgd", 1.0, tau=TAU, memory=None)), x, y, batch_size=24
    ).history
    assert_close_weights(weights_of(model), expected, 1e-5)

    other = mlp(
        kernel_regularizer=keras.regularizers.L2(0.3),
        bias_regularizer="l1",
        activity_regularizer="l2",
    )
    other.get_layer("hidden").bias.assign(np.linspace(-1, 1, 7))
    assert fit(compiled(other, "adam"), x, y, batch_size=24).history == log


def test_constraints_hold_after_the_step():
    x, y = data()
    model = mlp(kernel_constraint=keras.constraints.UnitNorm())
    fit(compiled(model, ProxProp("sgd", 1.0)), x, y)
    norms = np.linalg.norm(model.get_layer("hidden").kernel, axis=0)
    np.testing.assert_allclose(norms, 1, rtol=1e-5)


def with_batchnorm_and_dropout():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(16, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.Activation("relu"),
            keras.layers.Dropout(0.3, seed=7),
            keras.layers.Dense(12, "relu"),
            keras.layers.Dense(3),
        ]
    )


@pytest.mark.parametrize("mode", ["eager", "graph", "default"])
def test_batchnorm_and_dropout_draw_and_update_once_a_step_as_with_adam(mode):
    x, y = data()
    found = {}
    ours = ProxProp("adam", exclude=keras.layers.BatchNormalization)
    for optimizer in (ours, keras.optimizers.Adam()):
        model = compiled(with_batchnorm_and_dropout(), optimizer, mode)
        log = fit(model, x, y, batch_size=24).history
        state = [v.numpy() for v in model.non_trainable_variables]
        found[type(optimizer)] = [*log["loss"], *state]
    for ours, theirs in zip(*found.values()):
        # XLA compiles two different programs, which may round differently.
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_batchnorm_and_dropout_train():
    x, y = data()
    model = compiled(with_batchnorm_and_dropout(), ProxProp("adam", 0.01))
    loss = fit(model, x, y, epochs=30).history["loss"]
    assert loss[-1] < 0.5 * loss[0]


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.filterwarnings("ignore:No layer of model")
def test_with_every_layer_excluded_it_is_the_inner_optimizer_bit_for_bit(mode):
    x, y = data(20)
    runs = []
    for optimizer in (
        ProxProp("adam", 0.001, exclude=keras.layers.Layer),
        keras.optimizers.Adam(),
    ):
        model = compiled(
            with_batchnorm_and_dropout(),
            optimizer,
            mode,
            metrics=["accuracy"],
            weighted_metrics=["sparse_categorical_crossentropy"],
            loss_weights=0.7,
        )
        weight = np.linspace(0.5, 1.5, 20)
        log = fit(model, x, y, epochs=2, sample_weight=weight, validation_data=(x, y))
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        runs.append((log.history, [v.numpy() for v in model.weights + inner.variables]))
    assert runs[0][0] == runs[1][0]
    assert_equal_weights(runs[0][1], runs[1][1])


def test_loss_scaling_leaves_the_steps_as_they_are():
    x, y = data()
    plain = compiled(mlp(), ProxProp("adam", tau=TAU, memory=None))
    scaling = keras.optimizers.LossScaleOptimizer(
        ProxProp("adam", tau=TAU, memory=None), initial_scale=2.0**10, dynamic_growth_steps=2
    )
    scaled = compiled(mlp(), scaling)
    logs = [fit(model, x, y).history["loss"] for model in (plain, scaled)]
    assert_close_weights(weights_of(scaled), weights_of(plain), 1e-5)
    assert_close(*logs, 1e-6)
    assert float(scaling.dynamic_scale) == 2.0**11


def test_a_step_whose_gradients_overflow_is_skipped_by_loss_scaling():
    x, y = data()
    x[3, 2] = np.inf
    scaling = keras.optimizers.LossScaleOptimizer(ProxProp("adam"), initial_scale=2.0**10)
    model = compiled(mlp(), scaling)
    before = weights_of(model)
    fit(model, x, y, batch_size=24)
    assert_equal_weights(weights_of(model), before)
    assert float(scaling.dynamic_scale) == 2.0**9


def test_metrics_and_history_have_keras_names_and_values():
    x, y = data()
    model = compiled(mlp(), ProxProp(), metrics=["accuracy"])
    history = fit(model, x, y, epochs=3, validation_split=0.25).history
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    loss, accuracy = model.evaluate(x[18:], y[18:], verbose=0)
    assert history["val_loss"][-1] == pytest.approx(loss, rel=1e-6)
    assert history["val_accuracy"][-1] == accuracy
