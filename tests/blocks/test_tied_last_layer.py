"""ReversibleEmbedding as the last layer of a model that `fit` trains."""

import keras
import numpy as np
import pytest
from helpers import assert_close
from keras import layers

from keras_proxprop import ProxProp

VOCABULARY, DIM = 6, 3
TOKENS = np.array([[0, 2, 2, 5], [5, 2, 0, -1]])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_a_batch_that_is_not_finite_changes_nothing(value, jit_compile):
    tokens, states = layers.Input([2], dtype="int32"), layers.Input([2, DIM])
    embedding = layers.ReversibleEmbedding(VOCABULARY, DIM)
    outputs = embedding(embedding(tokens) + states, reverse=True)
    model = keras.Model([tokens, states], outputs)
    model.compile(ProxProp(final_layer="implicit"), "mse", jit_compile=jit_compile)
    x = np.ones([4, 2, DIM])
    x[1, 0, 2] = value
    before = model.get_weights()
    model.train_on_batch(
        [TOKENS[:, :2].repeat(2, 0) % VOCABULARY, x], np.ones([4, 2, VOCABULARY])
    )
    assert_close(model.get_weights()[0], before[0], 0)


def test_its_labels_as_a_last_layer_are_its_projections():
    step = {}
    for tied in (True, False):
        keras.utils.set_random_seed(0)
        tokens = layers.Input([8], dtype="int32")
        embedding = layers.ReversibleEmbedding(VOCABULARY, DIM)
        hidden = layers.Dense(DIM, kernel_initializer=keras.initializers.RandomNormal(seed=1))
        x = hidden(embedding(tokens))
        end = embedding(x, reverse=True) if tied else layers.Dense(VOCABULARY)(x)
        model = keras.Model(tokens, end)
        model.compile(ProxProp(), "mse")
        before = hidden.kernel.numpy()
        model.train_on_batch(np.arange(128).reshape(16, 8) % VOCABULARY, np.ones([16, 8, 6]))
        step[tied] = np.sqrt(np.mean((hidden.kernel.numpy() - before) ** 2))
    assert_close(step[True], step[False], 0.1)
