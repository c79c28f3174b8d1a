"""Models that change between trainings: frozen layers, adapters, other optimizers."""

import threading

import keras
import numpy as np
import pytest
from helpers import assert_close_weights, assert_equal_weights, weights_of
from scenarios import OPTIMIZERS, adam, compiled, data, fit, mlp, proxprop, with_both

import keras_proxprop
from keras_proxprop import StepMonitor
from keras_proxprop.reports.summary import layer_reports


def steps(model):
    return {report.name: report.step for report in layer_reports(model)}


@pytest.mark.filterwarnings("ignore:No layer of model")
@with_both
def test_a_layer_frozen_between_two_compilations_stays_as_it_is(new):
    model = compiled(mlp(), new())
    hidden, last = model.get_layer("hidden"), model.get_layer("last")
    fit(model)
    hidden.trainable = False
    frozen, moving = hidden.get_weights(), last.get_weights()
    fit(compiled(model, new()))
    assert_equal_weights(hidden.get_weights(), frozen)
    assert not np.allclose(last.get_weights()[0], moving[0])
    hidden.trainable = True
    fit(compiled(model, new()))
    assert not np.allclose(hidden.get_weights()[0], frozen[0])


@with_both
def test_new_layers_on_a_frozen_base_train_and_the_base_is_tuned_later(new):
    base = keras.Sequential([keras.Input((5,)), keras.layers.Dense(6, "tanh")], name="base")
    base.trainable = False
    inputs = keras.Input((5,))
    x = keras.layers.Dense(7, "tanh", name="head")(base(inputs, training=False))
    model = compiled(keras.Model(inputs, keras.layers.Dense(2, name="last")(x)), new(0.05))
    before = base.get_weights()
    loss = fit(model, epochs=5).history["loss"]
    assert loss[-1] < loss[0]
    assert_equal_weights(base.get_weights(), before)
    if new is proxprop:
        assert steps(model)["head"] == "implicit"
    base.trainable = True
    tuned = fit(compiled(model, new(0.05)), epochs=5).history["loss"]
    assert tuned[-1] < loss[-1]
    assert not np.allclose(base.get_weights()[0], before[0])


@pytest.mark.filterwarnings("ignore:No layer of model")
@with_both
def test_lora_trains_the_adapter_alone_explicitly(new):
    model = mlp()
    hidden = model.get_layer("hidden")
    hidden.enable_lora(2)
    kernel = hidden._kernel.numpy()
    compiled(model, new(0.05))
    loss = fit(model, epochs=5).history["loss"]
    assert loss[-1] < loss[0]
    np.testing.assert_array_equal(hidden._kernel, kernel)
    assert np.abs(hidden.lora_kernel_b).max() > 0
    if new is proxprop:
        assert steps(model)["hidden"] == "explicit: LoRA is enabled"


@pytest.mark.filterwarnings("ignore:No layer of model")
@with_both
def test_a_quantized_layer_with_an_adapter_trains_explicitly(new):
    model = mlp()
    hidden = model.get_layer("hidden")
    hidden.enable_lora(2)
    hidden.quantize("int8")
    kernel = hidden._kernel.numpy()
    compiled(model, new(0.05))
    loss = fit(model, epochs=5).history["loss"]
    assert loss[-1] < loss[0]
    np.testing.assert_array_equal(hidden._kernel, kernel)
    if new is proxprop:
        assert steps(model)["hidden"].startswith("explicit: ")


def test_adam_then_proxprop_then_adam_is_each_of_them_in_turn(capsys):
    model, alone = mlp(), mlp()
    for turn, new in enumerate((adam, proxprop, adam)):
        log = fit(
            compiled(model, new()), callbacks=[StepMonitor()] if turn == 1 else []
        ).history
        assert ("hidden/cosine" in log) == (new is proxprop)
        # The same, each from the weights that the last one left, in a model of its own.
        fit(compiled(alone, new()))
        assert_close_weights(weights_of(model), weights_of(alone), 1e-6)
        other = mlp()
        other.set_weights(weights_of(alone))
        alone = other


@with_both
def test_two_models_that_share_a_layer_train_it_in_turn(new):
    shared = keras.layers.Dense(6, "tanh", name="shared")
    models = []
    for seed in (0, 1):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((5,))
        model = keras.Model(inputs, keras.layers.Dense(2)(shared(inputs)))
        models.append(compiled(model, new()))
    loss = [model.evaluate(*data(), verbose=0) for model in models]
    for _ in range(5):
        for model in models:
            before = shared.get_weights()[0]
            fit(model)
            assert not np.allclose(shared.get_weights()[0], before)
    for model, first in zip(models, loss):
        assert model.evaluate(*data(), verbose=0) < first


@with_both
def test_models_trained_at_once_in_threads_are_trained_as_alone(new):
    def train(model):
        fit(model, epochs=4)

    models = [compiled(mlp(seed), new()) for seed in range(3)]
    threads = [threading.Thread(target=train, args=[model]) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, model in enumerate(models):
        alone = compiled(mlp(seed), new())
        train(alone)
        assert_close_weights(weights_of(model), weights_of(alone), 1e-6)


def test_an_adam_and_a_proxprop_model_train_at_once_in_threads():
    models = {name: compiled(mlp(), new()) for name, new in OPTIMIZERS.items()}
    threads = [
        threading.Thread(target=fit, args=[model], kwargs={"epochs": 4})
        for model in models.values()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, new in OPTIMIZERS.items():
        fit(alone := compiled(mlp(), new()), epochs=4)
        assert_close_weights(weights_of(models[name]), weights_of(alone), 1e-6)


TUNED = {
    "tau": 0.1,
    "learning_rate": 0.02,
    "inner_optimizer": "sgd",
    "solver": "cg",
    "final_layer": "implicit",
    "momentum": 0.9,
    "weight_decay": 1e-4,
}


def test_a_tuner_gives_hyperparameters_as_plain_arguments():
    optimizer = keras_proxprop.ProxProp(**TUNED)
    assert float(optimizer.learning_rate) == pytest.approx(0.02)
    config = optimizer.get_config()
    assert config["tau"] == 0.1 and config["final_layer"] == "implicit"
    assert config["inner_optimizer"]["config"]["momentum"] == 0.9
    loss = fit(compiled(mlp(), optimizer), epochs=5).history["loss"]
    assert loss[-1] < loss[0]


def test_str_and_repr_say_what_the_optimizer_is():
    text = str(keras_proxprop.ProxProp(**TUNED))
    assert text == repr(keras_proxprop.ProxProp(**TUNED))
    for part in ("ProxProp(SGD", "tau=0.1", "ConjugateGradient(iterations=3)", "'implicit'"):
        assert part in text
    schedule = keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.5)
    assert "ExponentialDecay" in repr(keras_proxprop.ProxProp(tau=schedule))
