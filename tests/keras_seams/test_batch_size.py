"""The batch size that `fit` knows before it makes the first step."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.trainers.data_adapters import get_data_adapter

from keras_proxprop.keras_seams.batch_size import batch_size_of

X, Y = np.zeros((24, 2), "float32"), np.zeros((24, 1), "float32")
ITEMS = tf.data.Dataset.from_tensor_slices((X, Y))
AFTER = {
    "nothing": lambda batches: batches,
    "prefetch": lambda batches: batches.prefetch(tf.data.AUTOTUNE),
    "cache": lambda batches: batches.cache(),
    "options": lambda batches: batches.with_options(tf.data.Options()),
    "cardinality": lambda b: b.apply(tf.data.experimental.assert_cardinality(4)),
    "shuffle": lambda batches: batches.shuffle(3),
    "repeat": lambda batches: batches.repeat(),
    "take": lambda batches: batches.take(2),
    "skip": lambda batches: batches.skip(1),
    "shard": lambda batches: batches.shard(2, 0),
    "map": lambda batches: batches.map(lambda x, y: (x, y)),
    "parallel map": lambda batches: batches.map(lambda x, y: (x, y), num_parallel_calls=2),
    "filter": lambda batches: batches.filter(lambda x, y: True),
    "several": lambda batches: batches.map(lambda x, y: (x, y)).cache().repeat(3).prefetch(1),
}
OTHERWISE = {
    "items": lambda: ITEMS,
    "unbatch": lambda: ITEMS.batch(6).unbatch(),
    "flat_map": lambda: ITEMS.batch(6).flat_map(lambda x, y: ITEMS.batch(4)),
    "interleave": lambda: ITEMS.batch(6).interleave(lambda x, y: ITEMS.batch(4)),
    "rebatch": lambda: ITEMS.batch(6).rebatch(4),
    "window": lambda: ITEMS.window(6),
}


def known(data, **arguments):
    adapter = get_data_adapter(data, **arguments)
    return batch_size_of(types.SimpleNamespace(data_adapter=adapter), None)


@pytest.mark.parametrize("after", AFTER)
def test_of_a_pipeline_it_is_that_of_its_last_batch(after):
    assert known(AFTER[after](ITEMS.batch(6))) == 6
    assert known(AFTER[after](ITEMS.batch(2).unbatch().batch(6))) == 6
    assert known(AFTER[after](ITEMS.batch(6, num_parallel_calls=2))) == 6


@pytest.mark.parametrize("otherwise", OTHERWISE)
def test_of_any_other_pipeline_nothing_is_known(otherwise):
    assert known(OTHERWISE[otherwise]()) is None


def test_a_batch_size_that_a_graph_decides_is_not_known():
    def batches(size):
        found.append(known(ITEMS.batch(size)))
        return size

    found = []
    tf.function(batches).get_concrete_function(tf.TensorSpec([], tf.int64))
    assert found == [None]


def test_of_a_generator_it_is_that_of_the_batch_that_keras_has_read():
    read = []

    def batches():
        for i in range(0, 24, 6):
            read.append(i)
            yield {"a": X[i : i + 6]}, Y[i : i + 6]

    adapter = get_data_adapter(batches())
    before = len(read)
    assert batch_size_of(types.SimpleNamespace(data_adapter=adapter), None) == 6
    assert len(read) == before


@pytest.mark.parametrize("size, expected", [(6, 6), (None, None), ("6", None)])
def test_of_a_pydataset_it_is_its_attribute(size, expected):
    class Batches(keras.utils.PyDataset):
        batch_size = size

        def __len__(self):
            return 4

        def __getitem__(self, i):
            raise AssertionError("no batch is to be read")

    assert known(Batches()) == expected


@pytest.mark.parametrize(
    "batch, expected",
    [
        ((X, Y, None), 24),
        (({"a": tf.constant(X), "b": None}, Y), 24),
        ((tf.sparse.from_dense(X), Y), 24),
        ((None, None), None),
        ((tf.constant(1.0),), None),
    ],
)
def test_of_a_batch_it_is_its_number_of_items(batch, expected):
    assert batch_size_of(None, batch) == expected


def test_of_arrays_it_is_the_argument():
    assert known(X, batch_size=6) == 6
