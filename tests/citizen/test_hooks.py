"""What others put around Keras's training step runs with ProxProp as it does with Adam."""

import keras
import pytest
import tensorflow as tf
from helpers import MODES
from processes import python
from scenarios import adam, data, fit, proxprop

HOOKS = """
import functools
import keras, numpy as np, tensorflow as tf
from helpers import assert_close_weights, weights_of

calls = []


def counted(name, step):
    @functools.wraps(step)
    def hook(self, data):
        calls.append(name)
        return {**step(self, data), name: tf.constant(1.0)}

    return hook


# Another package, imported first: it keeps Keras's function, and puts its own there.
keras.Model.train_step = counted("before import", keras.Model.train_step)


class Decorated(keras.Model):
    train_step = counted("class body", keras.Model.train_step)


import keras_proxprop

keras.Model.train_step = counted("after import", keras.Model.train_step)


class Above(keras.Model):
    def train_step(self, data):
        calls.append("override")
        return super().train_step(data)


keras_proxprop.ProxProp()
keras.Model.train_step = counted("after the first", keras.Model.train_step)


class Mixin:
    def train_step(self, data):
        calls.append("mixin")
        return super().train_step(data)


class Mixed(Mixin, Decorated):
    pass


class Chain(keras.Sequential):
    train_step = counted("chain", keras.Model.train_step)


class Own(keras.Model):
    train_step = counted("own call", keras.Model.train_step)

    def __init__(self, layers):
        super().__init__()
        self.parts = layers

    def call(self, x):
        for layer in self.parts:
            x = layer(x)
        return x


def made(kind):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(6, "tanh"), keras.layers.Dense(2)]
    if kind is Own:
        model = Own(layers)
        model.build((None, 5))
        return model
    inputs = keras.Input((5,))
    if issubclass(kind, keras.Sequential):
        return kind([inputs, *layers])
    return kind(inputs, layers[1](layers[0](inputs)))


def trained(kind, optimizer, **mode):
    model = made(kind)
    if kind in (keras.Model, keras.Sequential):
        hook = counted("instance", keras.Model.train_step)
        model.train_step = functools.partial(hook, model)
    model.compile(optimizer, loss="mse", **mode)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(16, 5)), random.normal(size=(16, 2))
    calls.clear()
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    # A step that is compiled is traced, once or twice.
    seen = calls if "run_eagerly" in mode else dict.fromkeys(calls)
    return model, list(seen), set(history)


def ours():
    # XLA makes code of CG soonest.
    return keras_proxprop.ProxProp("adam", 0.01, tau=1.0, memory=None, solver="cg")


@functools.cache
def by_tape(kind):
    model = made(kind)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(16, 5)), random.normal(size=(16, 2))
    adam = keras.optimizers.Adam(0.01)
    for rows in 2 * [slice(0, 8), slice(8, 16)]:
        with keras_proxprop.ImplicitGradientTape(model, tau=1.0, solver="cg") as tape:
            loss = tf.reduce_mean(tf.square(y[rows] - model(x[rows])))
        directions = tape.gradient(loss, model.trainable_variables)
        adam.apply(directions, model.trainable_variables)
    return weights_of(model)


for kind in (keras.Model, keras.Sequential, Decorated, Above, Mixed, Chain, Own):
    eager, graph, xla = {"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}
    for mode in (eager, graph, xla) if kind in (keras.Model, Chain, Own) else (eager,):
        _, expected, logs = trained(kind, keras.optimizers.Adam(0.01), **mode)
        model, seen, found = trained(kind, ours(), **mode)
        assert expected and seen == expected, (kind, mode, seen, expected)
        assert found == logs, (kind, mode, found, logs)
        # And the steps are implicit.
        assert_close_weights(weights_of(model), by_tape(kind), 1e-5)
    scaled = keras.optimizers.LossScaleOptimizer(ours(), initial_scale=8.0)
    model, seen, found = trained(kind, scaled, run_eagerly=True)
    assert set(seen) == set(expected) and found == logs
    assert_close_weights(weights_of(model), by_tape(kind), 1e-5)
print("all hooks ran")
"""


def test_every_hook_runs_as_with_adam_whenever_it_was_installed():
    assert "all hooks ran" in python(HOOKS)


OF_SUBCLASSES = ["make_train_function", "train_step", "compute_loss", "compute_metrics"]
OF_SUBCLASSES += ["make_test_function", "test_step", "make_predict_function", "predict_step"]


def hooked(optimizer, mode):
    """Returns which hooks of a subclass ran, in order, and what they made of the logs."""
    calls = []

    class Hooked(keras.Model):
        pass

    def hook(name):
        def run(self, *args, **kwargs):
            calls.append(name)
            found = getattr(super(Hooked, self), name)(*args, **kwargs)
            if name == "compute_loss":
                return 3 * found
            return {**found, "own": tf.constant(1.0)} if name == "compute_metrics" else found

        return run

    for name in OF_SUBCLASSES:
        setattr(Hooked, name, hook(name))
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    model = Hooked(inputs, keras.layers.Dense(2)(keras.layers.Dense(6, "tanh")(inputs)))
    model.compile(optimizer, loss="mse", **MODES[mode])
    x, y = data(8)
    # One step: its loss is that before it.
    logs = fit(model, x, y).history
    names = set(fit(model, validation_data=(x, y)).history)
    model.predict(x, verbose=0)
    return calls, logs, names


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_the_hooks_of_a_subclass_run_and_count_as_with_adam(mode):
    calls, logs, names = hooked(adam(), mode)
    ours, our_logs, our_names = hooked(proxprop(), mode)
    if mode == "graph":
        # Keras traces a first step twice.
        calls, ours = list(dict.fromkeys(calls)), list(dict.fromkeys(ours))
    assert set(calls) == set(OF_SUBCLASSES) and ours == calls
    assert our_names == names and our_logs["loss"] == pytest.approx(logs["loss"])
