"""Keras's callbacks do with ProxProp what they do with Adam."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_equal_weights, weights_of
from scenarios import compiled, data, fit, inner, mlp, with_both

callbacks = keras.callbacks


def learning_rate(model):
    return float(inner(model.optimizer).learning_rate)


@with_both
def test_learning_rate_scheduler_sets_and_reads_the_rate(new):
    model = compiled(mlp(), new(0.1))
    halve = callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    history = fit(model, epochs=3, callbacks=[halve]).history
    np.testing.assert_allclose(history["learning_rate"], [0.05, 0.025, 0.0125], rtol=1e-6)
    assert learning_rate(model) == pytest.approx(0.0125)


@with_both
def test_a_rate_that_the_scheduler_sets_to_zero_stops_the_steps(new):
    model = compiled(mlp(), new(0.1))
    fit(model)
    before = weights_of(model)
    fit(model, callbacks=[callbacks.LearningRateScheduler(lambda epoch: 0.0)])
    assert_equal_weights(weights_of(model), before)


@with_both
def test_reduce_lr_on_plateau_reduces_the_rate(new):
    model = compiled(mlp(), new(0.0625))
    # No loss falls by so much.
    plateau = callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e9)
    history = fit(model, epochs=3, callbacks=[plateau]).history
    assert history["learning_rate"] == [0.0625, 0.0625, 0.03125]
    assert learning_rate(model) == 0.015625


@with_both
def test_early_stopping_stops_and_restores_the_best_weights(new):
    model = compiled(mlp(), new(0.01))
    best = []
    note = callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: best.append(weights_of(model))
    )
    stop = callbacks.EarlyStopping(
        "loss", patience=1, min_delta=1e9, restore_best_weights=True, start_from_epoch=0
    )
    history = fit(model, epochs=9, callbacks=[note, stop]).history
    assert len(history["loss"]) == 2
    assert_equal_weights(weights_of(model), best[0])


@with_both
def test_model_checkpoint_keeps_the_state_of_an_epoch(new, tmp_path):
    model = compiled(mlp(), new())
    keep = callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras", save_freq="epoch")
    fit(model, epochs=2, callbacks=[keep])
    loaded = keras.models.load_model(tmp_path / "1.keras")
    fit(loaded, epochs=1)
    assert_equal_weights(weights_of(loaded), weights_of(model))


class Interrupt(callbacks.Callback):
    """Interrupts training once, before an epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


@with_both
def test_backup_and_restore_continues_interrupted_training(new, tmp_path):
    whole, model, again = (compiled(mlp(), new()) for _ in range(3))
    fit(whole, epochs=3)
    backup = callbacks.BackupAndRestore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(model, epochs=3, callbacks=[backup, Interrupt()])
    history = fit(again, epochs=3, callbacks=[callbacks.BackupAndRestore(tmp_path)])
    assert history.epoch == [1, 2]
    assert_equal_weights(weights_of(again), weights_of(whole))


@with_both
def test_tensorboard_writes_rate_loss_and_histograms(new, tmp_path):
    model = compiled(mlp(), new(0.125))
    board = callbacks.TensorBoard(
        tmp_path, histogram_freq=1, update_freq=1, write_steps_per_second=True, profile_batch=0
    )
    fit(model, epochs=2, callbacks=[board])
    found = {}
    for path in (tmp_path / "train").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found[value.tag, event.step] = tf.make_ndarray(value.tensor)
    assert found["epoch_learning_rate", 1] == 0.125
    tags = {tag for tag, _ in found}
    assert {"epoch_loss", "epoch_steps_per_second", "batch_loss"} <= tags
    assert any("hidden" in tag for tag in tags)


@with_both
def test_csv_logger_writes_a_row_per_epoch(new, tmp_path):
    log = tmp_path / "log.csv"
    model = compiled(mlp(), new(), metrics=["mae"])
    history = fit(model, epochs=2, callbacks=[callbacks.CSVLogger(log)]).history
    rows = list(csv.DictReader(log.open()))
    assert list(rows[0])[:3] == ["epoch", "loss", "mae"] and len(rows) == 2
    np.testing.assert_allclose([float(r["loss"]) for r in rows], history["loss"])


@with_both
def test_terminate_on_nan_stops_at_the_batch_that_made_it(new):
    model = compiled(mlp(), new())
    x, y = data()
    y[8] = np.nan
    ends = []
    count = callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ends.append(batch))
    history = fit(model, x, y, epochs=5, callbacks=[callbacks.TerminateOnNaN(), count])
    assert ends == [0, 1] and history.epoch == [0]


@pytest.mark.parametrize("wrap", [lambda o: o, keras.optimizers.LossScaleOptimizer])
@with_both
def test_swap_ema_weights_evaluates_the_average_and_gives_the_weights_back(new, wrap):
    model = compiled(mlp(), wrap(new(use_ema=True, ema_momentum=0.5)))
    seen = {}
    kernel = model.get_layer("hidden").kernel
    note = callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.update(trained=kernel.numpy())
    )
    in_test = callbacks.LambdaCallback()
    in_test.on_test_begin = lambda logs=None: seen.update(tested=kernel.numpy())
    in_test.on_epoch_end = lambda epoch, logs=None: seen.update(after=kernel.numpy())
    swap = callbacks.SwapEMAWeights()
    fit(model, epochs=2, callbacks=[note, swap, in_test], validation_data=data())
    optimizer = inner(model.optimizer)
    average = optimizer._model_variables_moving_average[0].numpy()
    np.testing.assert_allclose(seen["tested"], average, atol=1e-6)
    np.testing.assert_allclose(seen["after"], seen["trained"], atol=1e-6)
    assert not np.allclose(average, seen["trained"], atol=1e-4)
    # As `fit` leaves them with `use_ema`.
    np.testing.assert_allclose(kernel, average, atol=1e-6)


@with_both
def test_swap_ema_weights_without_an_average_says_so(new):
    model = compiled(mlp(), new())
    with pytest.raises(ValueError, match="use_ema=False"):
        fit(model, callbacks=[callbacks.SwapEMAWeights()], validation_data=data())
