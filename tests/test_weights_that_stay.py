"""Weights that must not move stay, and the others of their layer step as ever."""

import keras
import numpy as np
import pytest
from weight_cases import check, data

from keras_proxprop import ProxProp

layers, ops = keras.layers, keras.ops


def test_a_frozen_layer_stays_and_the_others_step_as_ever():
    first, frozen, last = layers.Dense(6, "tanh"), layers.Dense(6, "tanh"), layers.Dense(2)
    model, x = keras.Sequential([first, frozen, last]), data(8, 5)
    model(x)
    frozen.trainable = False
    check(model, x, {first: [x]})
    before = frozen.get_weights()
    model.compile(optimizer=ProxProp(), loss="mse", jit_compile=False)
    model.fit(x, data(8, 2), verbose=0)
    for a, b in zip(before, frozen.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_a_layer_with_a_frozen_bias_is_a_problem_in_its_kernel_alone():
    hidden = layers.Dense(6, "tanh", bias_initializer="ones")
    model, x = keras.Sequential([hidden, layers.Dense(2)]), data(8, 5)
    model(x)
    hidden.bias.trainable = False
    check(model, x, {hidden: [x]})


@pytest.mark.filterwarnings("ignore:No layer of model")
def test_a_layer_with_a_frozen_kernel_takes_its_bias_s_gradient():
    hidden = layers.Dense(6, "tanh")
    model, x = keras.Sequential([hidden, layers.Dense(2)]), data(8, 5)
    model(x)
    hidden.kernel.trainable = False
    check(model, x, {})


def test_a_layer_with_lora_takes_explicit_steps_in_its_adapters():
    first, adapted, last = layers.Dense(6, "tanh"), layers.Dense(6, "tanh"), layers.Dense(2)
    model, x = keras.Sequential([first, adapted, last]), data(8, 5)
    model(x)
    adapted.enable_lora(2)
    adapted.lora_kernel_b.assign(data(2, 6))
    check(model, x, {first: [x]})


def test_a_quantized_layer_is_left_as_it_is():
    first, quantized, last = layers.Dense(6, "tanh"), layers.Dense(6), layers.Dense(2)
    model, x = keras.Sequential([first, quantized, last]), data(8, 5)
    model(x)
    quantized.quantize("int8")
    check(model, x, {first: [x]})
