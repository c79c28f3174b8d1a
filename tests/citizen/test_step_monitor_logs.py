"""What loggers and the plot make of what StepMonitor noted."""

import csv
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from monitor_statistics import STATISTICS
from scenarios import compiled, fit, mlp, proxprop

from keras_proxprop import ProxProp, StepMonitor


def test_csv_logger_and_tensorboard_see_it(tmp_path):
    callbacks = keras.callbacks
    model = compiled(mlp(), proxprop())
    seen = [callbacks.CSVLogger(tmp_path / "log.csv"), callbacks.TensorBoard(tmp_path)]
    log = fit(model, epochs=2, callbacks=[StepMonitor(2), *seen]).history
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [float(r["hidden/cosine"]) for r in rows] == log["hidden/cosine"]
    tags = set()
    for path in (tmp_path / "train").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            tags |= {value.tag for value in event.summary.value}
    assert {f"epoch_hidden/{name}" for name in STATISTICS} <= tags


def logged(folder):
    """Returns what CSVLogger and TensorBoard have written as the learning rate."""
    rows = list(csv.DictReader((folder / "log.csv").open()))
    found = {}
    for path in (folder / "train").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag == "epoch_learning_rate":
                    found[event.step] = float(tf.make_ndarray(value.tensor))
    return [float(row["learning_rate"]) for row in rows], list(found.values())


# Three steps make an epoch.
DECAY = keras.optimizers.schedules.ExponentialDecay(0.5, 3, 0.5)
# No loss falls by so much.
PLATEAU = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e9)
RATES = {
    "constant": (lambda: ProxProp(), [0.001] * 3, []),
    "schedule": (lambda: ProxProp(learning_rate=DECAY), [0.25, 0.125, 0.0625], []),
    "plateau": (lambda: ProxProp(learning_rate=0.5), [0.5, 0.5, 0.25], [PLATEAU]),
}


@pytest.mark.parametrize("new, expected, others", RATES.values(), ids=RATES)
def test_loggers_get_the_learning_rate_that_is_in_force(new, expected, others, tmp_path):
    callbacks = [keras.callbacks.CSVLogger(tmp_path / "log.csv")]
    callbacks += [keras.callbacks.TensorBoard(tmp_path)]
    model = compiled(mlp(), new())
    fit(model, epochs=3, callbacks=[StepMonitor(), *callbacks, *others])
    for found in logged(tmp_path):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_plot_shows_cosine_length_and_time_of_every_layer(tmp_path):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(6, "tanh", name=f"hidden_{i}") for i in range(2)]
    model = keras.Sequential([keras.Input((5,)), *layers, keras.layers.Dense(2)])
    monitor = StepMonitor(2)
    with pytest.raises(RuntimeError, match="callbacks="):
        monitor.plot()
    log = fit(compiled(model, proxprop()), epochs=3, callbacks=[monitor]).history
    figure = monitor.plot(tmp_path / "steps.png")
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")
    cosines, lengths, times = figure.axes
    names = ["hidden_0", "hidden_1"]
    assert [label.get_text() for label in cosines.get_yticklabels()] == names
    for epoch, (cosine, length) in enumerate(zip(cosines.lines, lengths.lines)):
        for row, name in enumerate(names):
            at = {s: log[f"{name}/{s}"][epoch] for s in STATISTICS}
            assert (cosine.get_xdata()[row], cosine.get_ydata()[row]) == (at["cosine"], row)
            assert length.get_xdata()[row] == at["direction_norm"] / at["gradient_norm"]
    assert len(cosines.lines) == 3
    widths = [bar.get_width() / 1000 for bar in times.patches]
    assert widths == pytest.approx([log[f"{name}/seconds"][-1] for name in names])


def test_a_plot_without_matplotlib_says_what_to_install(monkeypatch):
    monitor = StepMonitor()
    fit(compiled(mlp(), proxprop()), callbacks=[monitor])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        monitor.plot()
