"""Lookups take ids of every dtype that they take with Adam, and step as with int32."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import MODES, assert_equal_weights, in_turns, weights_of
from keras import layers

from keras_proxprop import ProxProp
from keras_proxprop.reports.summary import layer_reports

WHOLE = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
FLOATING = ["float16", "bfloat16", "float32", "float64"]
# More tokens than a byte counts.
TOKENS = 200
KINDS = {
    "embedding": lambda: layers.Embedding(TOKENS, 3),
    "masked": lambda: layers.Embedding(TOKENS, 3, mask_zero=True),
    "tied": lambda: layers.ReversibleEmbedding(TOKENS, 3),
    "untied": lambda: layers.ReversibleEmbedding(TOKENS, 3, tie_weights=False),
}


def trained(kind, ids, mode="eager", policy="float32"):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    try:
        lookup = KINDS[kind]()
        inputs = keras.Input((4,), dtype=ids.dtype.name)
        # A mask goes through both.
        hidden = layers.GlobalAveragePooling1D()(layers.Activation("tanh")(lookup(inputs)))
        model = keras.Model(inputs, layers.Dense(2)(hidden))
        model.compile(ProxProp(), loss="mse", **MODES[mode])
    finally:
        keras.config.set_dtype_policy("float32")
    y = np.random.default_rng(1).normal(size=(6, 2)).astype("float32")
    for _ in range(2):
        model.train_on_batch(ids, y)
    return model


def ids_of(dtype, highest=120):
    ids = np.random.default_rng(0).integers(0, highest, (6, 4))
    return tf.cast(tf.constant(ids), dtype)


# Nothing projects onto the second matrix of an untied layer.
@pytest.mark.filterwarnings("ignore:Gradients do not exist for .*reverse_embeddings")
@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_every_dtype_train_the_same_weights(kind):
    expected = weights_of(trained(kind, ids_of("int32")))
    for dtype in WHOLE + FLOATING:
        assert_equal_weights(weights_of(trained(kind, ids_of(dtype))), expected)


@pytest.mark.filterwarnings("ignore:Gradients do not exist for .*reverse_embeddings")
@pytest.mark.parametrize("kind, dtype", in_turns(KINDS, WHOLE[::-1] + FLOATING))
def test_so_they_do_in_a_graph(kind, dtype):
    expected = weights_of(trained(kind, ids_of("int32"), "graph"))
    assert_equal_weights(weights_of(trained(kind, ids_of(dtype), "graph")), expected)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
@pytest.mark.parametrize("kind", ["embedding", "tied"])
def test_negative_ids_count_from_the_last_token(kind, dtype):
    ids = ids_of("int32")
    negative = tf.where(ids < 80, ids, ids - TOKENS)
    model = trained(kind, tf.cast(negative, dtype))
    assert_equal_weights(weights_of(model), weights_of(trained(kind, ids)))


def test_ids_above_a_byte_are_not_cut():
    ids = ids_of("int32", TOKENS)
    for dtype in ("uint8", "int16", "float16", "float32"):
        found = trained("embedding", tf.cast(ids, dtype))
        assert_equal_weights(weights_of(found), weights_of(trained("embedding", ids)))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_ids_as_floats_are_not_rounded_in_mixed_precision(policy):
    ids = ids_of("int32", TOKENS)
    for dtype in ("uint8", "float32", "float64"):
        found = trained("embedding", tf.cast(ids, dtype), policy=policy)
        expected = trained("embedding", ids, policy=policy)
        assert_equal_weights(weights_of(found), weights_of(expected))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_summary_counts_them(dtype):
    report = layer_reports(trained("embedding", ids_of(dtype)), 6)[0]
    assert (report.step, report.row_count, report.features) == ("implicit", 24, TOKENS)
