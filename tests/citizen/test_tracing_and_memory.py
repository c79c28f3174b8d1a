"""A train function is traced once, and does not grow."""

import gc
import weakref

import keras
import psutil
import pytest
import tensorflow as tf
from scenarios import adam, compiled, data, fit, mlp, proxprop, with_both


@pytest.fixture
def traces(monkeypatch):
    """Counts how often a training step is traced, whoever's it is."""
    count = []
    proxprop()
    dispatch = keras.Model.train_step

    def counting(self, batch):
        if not tf.executing_eagerly():
            count.append(1)
        return dispatch(self, batch)

    # Or the next ProxProp would put its own in front.
    counting._proxprop = True
    monkeypatch.setattr(keras.Model, "train_step", counting)
    return count


def built(model):
    # Keras traces a step twice where it creates the optimizer's variables in it.
    model.optimizer.build(model.trainable_variables)
    return model


@with_both
def test_one_trace_for_all_epochs_and_a_ragged_last_batch(new, traces):
    model = built(compiled(mlp(), new()))
    fit(model, *data(26), epochs=3, validation_data=data())
    fit(model, *data(26))
    assert len(traces) == 1


@with_both
def test_one_trace_with_xla_and_at_most_one_more_for_the_last_batch(new, traces):
    model = built(compiled(mlp(), new(), jit_compile=True))
    fit(model, *data(24), epochs=2)
    assert len(traces) == 1
    fit(model, *data(26), epochs=2)
    assert len(traces) <= 2


@with_both
def test_changing_rates_and_tau_traces_nothing_anew(new, traces):
    model = built(compiled(mlp(), new()))

    def change(epoch, rate):
        if hasattr(model.optimizer, "tau"):
            model.optimizer.tau = 0.5**epoch
        return rate / 2

    fit(model, epochs=4, callbacks=[keras.callbacks.LearningRateScheduler(change)])
    assert len(traces) == 1


@with_both
def test_each_of_several_executions_is_one_trace(new, traces):
    model = built(compiled(mlp(), new(), steps_per_execution=3))
    fit(model, batch_size=4, epochs=2)
    assert len(traces) == 1


def resident():
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


@pytest.mark.parametrize("mode", ["graph", "train_on_batch"])
def test_memory_does_not_grow_over_two_thousand_steps(mode):
    model = compiled(mlp(units=64), proxprop())
    x, y = data(2000)

    def train(steps):
        if mode == "graph":
            fit(model, x[:steps], y[:steps], batch_size=1)
        else:
            for i in range(steps):
                model.train_on_batch(x[i : i + 1], y[i : i + 1])

    train(300)
    before = resident()
    train(2000)
    # One step's Gram matrix alone, kept, would be 2000 × 64 kB = 125 MB.
    assert resident() - before < 25


@with_both
def test_eager_steps_leave_no_tensors_behind(new):
    model = compiled(mlp(units=64), new(), run_eagerly=True)

    def tensors():
        gc.collect()
        return sum(isinstance(o, tf.Tensor) for o in gc.get_objects())

    fit(model)
    before = tensors()
    fit(model, epochs=3)
    assert tensors() - before < 10


def test_models_that_are_dropped_are_freed():
    dropped = []
    for new in (adam, proxprop):
        model = compiled(mlp(), new())
        fit(model)
        dropped.append(weakref.ref(model))
        del model
    keras.backend.clear_session()
    gc.collect()
    assert [reference() for reference in dropped] == [None, None]


class Looping(keras.Model):
    """Has a recurrent layer, a graph within the step's, and a derivative of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.last = keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)
        self.loop = keras.layers.GRU(3, use_cudnn=False)

    def call(self, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            h = self.first(x)
        slopes = tape.gradient(h, x)
        h = tf.cond(tf.reduce_sum(x) > 0, lambda: self.first(x), lambda: h)
        return self.last(self.loop(h[:, None])) + slopes[:, :1]


@pytest.mark.parametrize("make", [mlp, Looping])
def test_layers_weights_and_optimizers_of_dropped_models_are_freed(make):
    dropped = []
    for _ in range(2):
        model = compiled(make(), proxprop())
        fit(model)
        kernels = [weight.value for weight in model.trainable_variables]
        dropped += map(weakref.ref, [*model.layers, model.optimizer, *kernels])
        del model, kernels
    keras.backend.clear_session()
    gc.collect()
    assert [reference() for reference in dropped if reference() is not None] == []
