"""Training resumed in a new process is training not interrupted, bit for bit."""

import numpy as np
import pytest
from helpers import assert_equal_weights
from processes import python
from scenarios import RESUMED

# Without Dropout, whose seed's state Keras does not read back from a file.
TRAIN = """
import sys
import keras, numpy as np, tensorflow as tf
import scenarios
import keras_proxprop

tf.config.experimental.enable_op_determinism()
task, folder = sys.argv[1:]


def compiled(name):
    model = scenarios.convnet()
    schedule = keras.optimizers.schedules.ExponentialDecay(0.02, 3, 0.9)
    optimizer = scenarios.RESUMED[name](schedule, use_ema=True)
    return scenarios.compiled(model, optimizer)


def train(model, first, last):
    for epoch in range(first, last):
        rng = np.random.default_rng(epoch)
        x = rng.normal(size=(26, 6, 6, 1)).astype("float32")
        scenarios.fit(model, x, np.tanh(x[:, :2, 0, 0]))
    return model


def checkpoint(model):
    return tf.train.Checkpoint(model=model, optimizer=model.optimizer)


def keep(model, what):
    np.savez(f"{folder}/{what}.npz", *scenarios.state(model))


for name in scenarios.RESUMED:
    path = f"{folder}/{name}"
    if task == "begin":
        model = train(compiled(name), 0, 2)
        keep(model, f"{name}_half")
        model.save(path + ".keras")
        checkpoint(model).write(path)
        # Training that is saved goes on.
        keep(train(model, 2, 4), f"{name}_whole")
    else:
        model = keras.models.load_model(path + ".keras")
        model.save(path + "_again.keras")
        model = keras.models.load_model(path + "_again.keras")
        keep(model, f"{name}_loaded")
        keep(train(model, 2, 4), f"{name}_file")
        model = compiled(name)
        model.optimizer.build(model.trainable_variables)
        checkpoint(model).read(path)
        keep(train(model, 2, 4), f"{name}_checkpoint")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where one process left half of the training, and another one the rest."""
    folder = tmp_path_factory.mktemp("resuming")
    for task in ("begin", "resume"):
        python(TRAIN, task, folder)
    return folder


@pytest.mark.parametrize("name", RESUMED)
def test_all_state_is_there_as_soon_as_it_is_loaded_and_saved_again_as_it_was(name, folder):
    states = []
    for task in ("half", "loaded"):
        with np.load(folder / f"{name}_{task}.npz") as file:
            states.append([file[key] for key in file.files])
    assert_equal_weights(*states)


@pytest.mark.parametrize("way", ["file", "checkpoint"])
@pytest.mark.parametrize("name", RESUMED)
def test_resumed_training_is_uninterrupted_training_bit_for_bit(name, way, folder):
    states = []
    for task in ("whole", "half", way):
        with np.load(folder / f"{name}_{task}.npz") as file:
            states.append([file[key] for key in file.files])
    whole, half, resumed = states
    assert_equal_weights(resumed, whole)
    assert any((a != b).any() for a, b in zip(half, whole))
