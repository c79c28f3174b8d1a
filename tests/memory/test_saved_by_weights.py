"""What memory has saved goes to the problems of the same weights, whichever come first."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_proxprop import CurvatureMemory, ImplicitGradientTape, ProxProp

L = keras.layers
rng = np.random.default_rng(0)
X = tf.constant(rng.normal(size=(32, 8)).astype("float32"))


class Heads(keras.Model):
    """Two heads, one of which a call takes; inputs of the second are thirty times as large."""

    def __init__(self):
        super().__init__()
        self.trunk = L.Dense(16, activation="tanh", name="trunk")
        self.heads = [L.Dense(16, activation="tanh", name=f"head{i}") for i in range(2)]
        self.ends = [L.Dense(1, name=f"end{i}") for i in range(2)]

    def build(self, shape):
        """Layers are built when they are called."""

    def call(self, x, task=0):
        return self.ends[task](self.heads[task]([1.0, 30.0][task] * self.trunk(x)))


def training():
    keras.utils.set_random_seed(0)
    model = Heads()
    for task in range(2):
        model(X, task=task)
    model.optimizer = ProxProp(memory=CurvatureMemory(layers="all"))
    model.optimizer.build(model.trainable_variables)
    return model


def step(model, task):
    with ImplicitGradientTape(model, **model.optimizer.step_arguments()) as tape:
        loss = tf.reduce_mean((model(X, task=task) - 1.0) ** 2)
    directions = tape.gradient(loss, model.trainable_variables)
    pairs = zip(directions, model.trainable_variables)
    model.optimizer.apply_gradients([pair for pair in pairs if pair[0] is not None])


def traces(model):
    """Returns the traces of what is averaged, by the layers' names."""
    names = {id(v): v.path.split("/")[-2] for v in model.trainable_variables}
    return {
        names[key[0]]: float(np.trace(state.average) / state.weight)
        for key, state in model.optimizer._curvatures._states.items()
    }


@pytest.mark.parametrize("stepped", [(), (0,), (1,), (1, 0)], ids=str)
@pytest.mark.parametrize("way", ["checkpoint", "keras"])
def test_two_heads_have_their_own_in_whatever_order_they_come(way, stepped, tmp_path):
    model, other = training(), training()
    for task in (0, 1, 0, 1):
        step(model, task)
    before = traces(model)
    for task in stepped:
        step(other, task)
    if way == "checkpoint":
        path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "c")
        tf.train.Checkpoint(model=other, optimizer=other.optimizer).restore(path)
    else:
        store = {}
        model.optimizer.save_own_variables(store)
        other.set_weights(model.get_weights())
        other.optimizer.load_own_variables(store)
    # Each goes on from its own.
    step(other, 1)
    step(other, 0)
    after = traces(other)
    assert after.keys() == before.keys()
    for name in before:
        assert before[name] / 3 < after[name] < 3 * before[name], (name, before, after)
