"""The batch size for which memory is chosen is the number of items of the model's inputs."""

import keras
import pytest
import tensorflow as tf
from batch_cases import FEATURES, LARGE, X, Y, dataset, in_own_loop, net, saved_batch_size
from helpers import in_turns

from keras_proxprop import CurvatureMemory, ImplicitGradientTape, ProxProp

L = keras.layers


class Positions(L.Layer):
    """Adds an embedding of positions, which has no axis of items."""

    def __init__(self):
        super().__init__()
        self.table = L.Embedding(80, FEATURES)

    def call(self, x):
        return x + self.table(tf.range(80))


# What is noted of these layers does not begin with the axis of items.
OTHERS = {
    "moments of a wide layer": lambda: [L.Dense(700), L.BatchNormalization()],
    "moments of a narrow layer": lambda: [L.Dense(8), L.LayerNormalization()],
    "time steps": lambda: [L.RepeatVector(700), L.SimpleRNN(3)],
    "few time steps": lambda: [L.RepeatVector(5), L.LSTM(3)],
    "positions": lambda: [L.RepeatVector(80), Positions(), L.GlobalAveragePooling1D()],
}


@pytest.mark.parametrize(
    "name, way", in_turns(OTHERS, ["arrays", "own tf.function", "own loop"])
)
def test_it_is_chosen_for_the_items_of_the_model_s_inputs(name, way):
    for size, expected in (16, 64), (LARGE, LARGE):
        keras.utils.set_random_seed(0)
        layers = [*OTHERS[name](), L.Dense(20, activation="tanh"), L.Dense(1)]
        model = keras.Sequential([keras.Input((FEATURES,)), *layers])
        model.compile(ProxProp(memory=CurvatureMemory(layers="all")), "mse", jit_compile=False)
        model.optimizer.build(model.trainable_variables)
        items = dataset(size).take(1)
        x, y = next(iter(items))
        if way == "arrays":
            model.fit(x, y, batch_size=size, verbose=0)
        else:
            in_own_loop(way != "own loop")(model, size, items)
        assert saved_batch_size(model) == expected


def test_a_jacobian_settles_nothing():
    model = net()
    model.optimizer.build(model.trainable_variables)
    x = tf.constant(X[:LARGE])
    with ImplicitGradientTape(model, **model.optimizer.step_arguments()) as tape:
        mean = tf.reduce_mean(model(x), 0)
    tape.jacobian(mean, model.trainable_variables)
    model.train_on_batch(x, Y[:LARGE])
    assert saved_batch_size(model) == LARGE
