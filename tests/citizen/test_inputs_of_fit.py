"""What Keras trains on, ProxProp trains on, to the same weights."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close_weights, weights_of
from scenarios import compiled, data, fit, mlp, with_both

from keras_proxprop import ProxProp

# Three batches of eight, and a ragged one of two.
ROWS = 26


def batches():
    x, y = data(ROWS)
    return [(x[i : i + 8], y[i : i + 8]) for i in range(0, ROWS, 8)]


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return len(batches())

    def __getitem__(self, index):
        return batches()[index]


def generator():
    while True:
        yield from batches()


def dataset():
    return tf.data.Dataset.from_tensor_slices(data(ROWS)).batch(8)


def train_on_batch(model):
    for _ in range(2):
        for x, y in batches():
            model.train_on_batch(x, y)


def with_fit(xy, **kwargs):
    return lambda model: model.fit(*xy(), epochs=2, shuffle=False, verbose=0, **kwargs)


WAYS = {
    "numpy": with_fit(lambda: data(ROWS), batch_size=8),
    "tensors": with_fit(lambda: map(tf.constant, data(ROWS)), batch_size=8),
    "dataset": with_fit(lambda: [dataset()]),
    "infinite dataset": with_fit(lambda: [dataset().repeat()], steps_per_epoch=4),
    "generator": with_fit(lambda: [generator()], steps_per_epoch=4),
    "py_dataset": with_fit(lambda: [Sequence()]),
    "train_on_batch": train_on_batch,
}


@functools.cache
def reference_weights(new):
    """The weights after two epochs of batches one by one."""
    model = compiled(mlp(), new(), run_eagerly=True)
    for x, y in 2 * batches():
        fit(model, x, y)
    return weights_of(model)


@pytest.mark.parametrize("way", WAYS)
@with_both
def test_every_way_to_give_the_data_trains_to_the_same_weights(new, way):
    model = compiled(mlp(), new())
    WAYS[way](model)
    assert int(model.optimizer.iterations) == 8
    assert_close_weights(weights_of(model), reference_weights(new), 1e-6)


@with_both
def test_steps_per_execution_and_a_ragged_last_batch_make_the_same_steps(new):
    models = [compiled(mlp(), new(), steps_per_execution=n) for n in (1, 3)]
    for model in models:
        fit(model, *data(ROWS), epochs=2)
    assert int(models[1].optimizer.iterations) == 8
    assert_close_weights(*map(weights_of, models), 1e-6)


@with_both
def test_train_on_batch_returns_logs_and_resets_metrics(new):
    model = compiled(mlp(), new(), metrics=["mae"])
    x, y = batches()[0]
    first = model.train_on_batch(x, y, return_dict=True)
    loss, mae = model.train_on_batch(x, y)
    assert set(first) == {"loss", "mae"} and loss < first["loss"]
    expected = model.train_on_batch(x, y, sample_weight=np.zeros(8), return_dict=True)
    assert expected["loss"] == 0


@with_both
def test_validation_data_is_evaluated_and_not_trained_on(new):
    model, alone = compiled(mlp(), new()), compiled(mlp(), new())
    history = fit(model, epochs=2, validation_data=data(seed=3)).history
    fit(alone, epochs=2)
    assert_close_weights(weights_of(model), weights_of(alone), 1e-7)
    assert history["val_loss"][-1] == pytest.approx(model.evaluate(*data(seed=3), verbose=0))


def two_headed():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(6, "tanh")(inputs)
    heads = [keras.layers.Dense(1, name=name)(hidden) for name in ("first", "second")]
    return keras.Model(inputs, dict(zip(("first", "second"), heads)))


@with_both
def test_several_outputs_with_losses_and_weights_of_their_own(new):
    x, y = data()
    targets = {"first": y[:, :1], "second": y[:, 1:]}
    model = compiled(
        two_headed(),
        new(),
        loss={"first": "mse", "second": "mae"},
        loss_weights={"first": 1.0, "second": 0.0},
        metrics={"second": ["mae"]},
    )
    second = model.get_layer("second").get_weights()
    log = fit(model, x, targets, epochs=10).history
    assert log["loss"][-1] < 0.8 * log["loss"][0]
    assert {"first_loss", "second_loss", "second_mae"} <= set(log)
    # A loss of weight zero trains nothing.
    for before, after in zip(second, model.get_layer("second").get_weights()):
        np.testing.assert_array_equal(after, before)


def test_several_losses_make_the_step_of_their_weighted_sum():
    x, y = data()
    targets = {"first": y[:, :1], "second": y[:, 1:]}
    runs = []
    for scale in (2.0, 1.0):
        # Twice the loss at half the rate: the direction is linear in the loss.
        model = compiled(
            two_headed(),
            ProxProp("sgd", 0.1 / scale),
            loss={"first": "mse", "second": "mse"},
            loss_weights={"first": scale, "second": 0.5 * scale},
        )
        fit(model, x, targets)
        runs.append(weights_of(model))
    assert_close_weights(*runs, 1e-5)


def tagger():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 4, mask_zero=True)(inputs)
    x = keras.layers.Dense(5, "tanh")(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


@with_both
def test_masked_positions_change_neither_loss_nor_step_beyond_their_rows(new):
    tokens = np.random.default_rng(0).integers(1, 9, size=(16, 6))
    labels = tokens % 3
    tokens[:, 4:] = 0
    other = labels.copy()
    other[:, 4:] = (other[:, 4:] + 1) % 3
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    runs = []
    for targets in (labels, other):
        model = compiled(tagger(), new(0.05), loss=loss)
        history = fit(model, tokens, targets, epochs=8).history["loss"]
        assert history[-1] < 0.8 * history[0]
        runs.append(weights_of(model))
    for ours, theirs in zip(*runs):
        np.testing.assert_array_equal(ours, theirs)


@with_both
@pytest.mark.parametrize("weighting", ["class_weight", "sample_weight"])
def test_samples_of_weight_zero_train_nothing(new, weighting):
    x, y = data()
    labels = (y[:, 0] > 0).astype("int32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = compiled(mlp(), new(), loss=loss)
    before = weights_of(model)
    zero = {"class_weight": {0: 0.0, 1: 0.0}, "sample_weight": np.zeros(len(x))}
    fit(model, x, labels, **{weighting: zero[weighting]})
    assert_close_weights(weights_of(model), before, 1e-7)
