"""Which layers have memory is chosen for the batch size of the first training, and kept."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from batch_cases import LARGE, ROWS, X, Y, dataset, in_own_loop, net
from helpers import assert_close_weights
from memory_cases import restored

import keras_proxprop
from keras_proxprop import CurvatureMemory, ProxProp, replicas
from keras_proxprop.memory.averaged_gram import KEPT
from keras_proxprop.optimizers.finding import find_proxprop
from keras_proxprop.rows.matrix import MatrixRows
from keras_proxprop.solvers.auto import Auto


def with_memory(model):
    """Returns how many problems have memory."""
    return len(find_proxprop(model.optimizer)._curvatures.variables) // len(KEPT)


def forms(model, batch_size=None):
    layers = keras_proxprop.summary(model, batch_size, print_fn=lambda line: None)
    return [layer.solver for layer in layers]


class Unsized(keras.utils.PyDataset):
    def __init__(self, items):
        super().__init__()
        self.items = items

    def __len__(self):
        return ROWS // self.items

    def __getitem__(self, i):
        own = slice(i * self.items, (i + 1) * self.items)
        return X[own], Y[own]


class Batches(Unsized):
    def __init__(self, batch_size):
        super().__init__(batch_size)
        self.batch_size = batch_size


def generator(size):
    return ((X[i : i + size], Y[i : i + size]) for i in range(0, ROWS, size))


def fed(data):
    return lambda model, size: model.fit(data(size), verbose=0)


WAYS = {
    "arrays": lambda model, size: model.fit(X, Y, batch_size=size, verbose=0),
    "train_on_batch": lambda model, size: model.train_on_batch(X[:size], Y[:size]),
    "dataset": fed(dataset),
    "pipeline": fed(lambda n: dataset(n).shuffle(4).map(lambda *xy: xy).cache().prefetch(2)),
    "equal batches": fed(lambda n: dataset(n, drop_remainder=True)),
    "batches of batches": fed(lambda n: dataset(2 * n).unbatch().batch(n).repeat(1)),
    "zipped": fed(lambda n: tf.data.Dataset.zip((dataset(n), dataset(n))).map(lambda a, b: a)),
    "class weights": lambda model, size: model.fit(
        dataset(size).map(lambda x, y: (x, tf.zeros_like(y, "int32"))),
        class_weight={0: 1.0},
        verbose=0,
    ),
    "generator": fed(generator),
    "PyDataset": fed(Batches),
    "own loop": in_own_loop(False),
    "own tf.function": in_own_loop(True),
}


# The small size is what is taken where none is known, so that it says less.
@pytest.mark.parametrize(
    "way, size, number",
    [(way, LARGE, 3) for way in WAYS] + [(way, 64, 1) for way in ("arrays", "own loop")],
)
def test_it_is_chosen_as_the_summary_says_at_this_batch_size(way, size, number):
    model = net()
    said = forms(model, size)
    with warnings.catch_warnings():
        # Of Keras: that it does not shuffle.
        warnings.simplefilter("ignore")
        WAYS[way](model, size)
    assert with_memory(model) == said.count("memory/100") == number
    # Now it says what is done, whatever it is asked for.
    for other in (None, 64, LARGE):
        assert [form == "memory/100" for form in forms(model, other)] == [
            form == "memory/100" for form in said
        ]


@pytest.mark.parametrize(
    "data",
    [
        Unsized,
        lambda n: dataset(n).unbatch().batch(8).flat_map(lambda *xy: dataset(n)),
        lambda n: dataset(n).ragged_batch(1).unbatch(),
    ],
    ids=["PyDataset", "flat_map", "unbatch"],
)
def test_it_is_chosen_for_64_where_no_batch_size_is_known(data):
    model = net()
    model.fit(data(LARGE), steps_per_epoch=2, verbose=0)
    assert with_memory(model) == 1


def test_it_is_chosen_for_64_where_workers_may_know_different_batch_sizes(monkeypatch):
    model = net()
    monkeypatch.setattr(replicas, "on_several_workers", lambda strategy: True)
    assert forms(model, LARGE).count("memory/100") == 1
    model.fit(X, Y, batch_size=LARGE, verbose=0)
    assert with_memory(model) == 1


def test_it_is_chosen_once():
    model = net()
    # This is no training.
    model.evaluate(X, Y, batch_size=LARGE, verbose=0)
    model.predict(X, batch_size=LARGE, verbose=0)
    forms(model, LARGE)
    model.fit(X[:128], Y[:128], batch_size=32, validation_data=(X, Y), verbose=0)
    model.fit(X, Y, batch_size=LARGE, verbose=0)
    assert with_memory(model) == 1
    # A large batch is solved as it was before.
    model.compile(ProxProp(), "mse", jit_compile=False)
    model.fit(X, Y, batch_size=LARGE, verbose=0)
    model.fit(X[:32], Y[:32], batch_size=32, verbose=0)
    assert with_memory(model) == 3


@pytest.mark.parametrize(
    "way, scaled", [("keras", True), ("weights", False), ("checkpoint", True)]
)
def test_a_saved_choice_is_kept(way, scaled, tmp_path):
    def new():
        return net(keras.optimizers.LossScaleOptimizer(ProxProp()) if scaled else None)

    model = new()
    model.fit(X, Y, batch_size=LARGE, shuffle=False, verbose=0)
    other = restored(way, model, new, tmp_path)
    for each in (model, other):
        each.fit(X[:64], Y[:64], batch_size=64, shuffle=False, verbose=0)
    assert with_memory(other) == with_memory(model) == 3
    assert_close_weights(other.get_weights(), model.get_weights(), 1e-6)


def test_a_state_that_was_saved_without_the_choice_was_chosen_for_64():
    model, other, store = net(), net(), {}
    model.fit(X[:64], Y[:64], batch_size=64, verbose=0)
    model.optimizer.save_own_variables(store)
    assert store.pop("curvature_batch_size") == 64
    other.optimizer.build(other.trainable_variables)
    other.optimizer.load_own_variables(store)
    other.fit(X, Y, batch_size=LARGE, verbose=0)
    assert with_memory(other) == 1


def multiply_adds(count, features, columns):
    """Returns what a step adds to backpropagation on a CPU: of the batch's own forms, and of
    memory."""
    primal = count * features**2 + 4 * features**3 + features**2 * columns
    dual = count**2 * features + 4 * count**3 + count**2 * min(columns, features)
    own = min(primal, dual, 30 * 3 * count * features * columns)
    refresh = (count * features**2 + 4 * features**3) / 100
    return own, min(features**2 * columns, count * features**2) + refresh


def test_memory_pays_by_the_count_of_multiply_adds_at_64_or_with_many_rows():
    random, paid = np.random.default_rng(3), []
    for _ in range(200):
        count, features, columns = (int(2 ** random.uniform(4, 12)) for _ in range(3))
        rows = MatrixRows(tf.zeros([count, features]), False)
        solver = CurvatureMemory().solver(rows, columns, Auto(), batch_size=count)
        sizes = [64, count] if count >= 3 * features else [64]
        prices = [multiply_adds(size, features, columns) for size in sizes]
        paid.append(any(memory < own for own, memory in prices))
        assert isinstance(solver, Auto) != paid[-1], (count, features, columns)
    assert 20 < sum(paid) < 180
