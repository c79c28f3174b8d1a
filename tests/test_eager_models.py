"""Models that run eagerly: their calls may ask for values, and keep what they computed."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from explicit_layers import explicit_layers
from helpers import assert_close, implicit_direction
from test_final_layers import FINAL

from keras_proxprop import ImplicitGradientTape, ProxProp
from keras_proxprop.keras_seams.eager_walk import final_layers_of_call

layers, ops = keras.layers, keras.ops
TAU = 0.3


class Asking(keras.Model):
    """Needs the values of its tensors."""

    def __init__(self):
        super().__init__()
        self.first = layers.Dense(4, "tanh", name="first")
        self.normal = layers.BatchNormalization(name="normal")
        self.last = layers.Dense(2, name="last")
        self.calls = 0

    def call(self, x, training=False):
        self.hidden = self.normal(self.first(x), training=training)
        if self.hidden.numpy().max() > 1e6 or ops.sum(x) > 1e6:
            return self.hidden
        return self.last(self.hidden)


class Tied(Asking):
    def __init__(self):
        super().__init__()
        self.second = layers.Dense(4, "tanh", name="second")

    def call(self, x, training=False):
        h = self.second(self.first(x))
        scale = float(ops.max(ops.abs(h))) + 1
        return self.last(h / scale) + ops.sum(x @ self.first.kernel, axis=1, keepdims=True)


class Choosing(keras.Model):
    """The arguments decide what is an output."""

    def __init__(self):
        super().__init__()
        self.first, self.last = (layers.Dense(3, name=name) for name in ("first", "last"))

    def call(self, x, options=None, hidden=False):
        h = self.first(x)
        outputs = self.last(h)
        return h + outputs if hidden or options and options["hidden"] else outputs


class Keeping(keras.Model):
    """Keeps what it computed, also in a list."""

    def __init__(self):
        super().__init__()
        self.first, self.last = layers.Dense(4, "tanh"), layers.Dense(2)

    def call(self, x):
        self.kept = {"both": [self.first(x), None]}
        self.outputs_of_call = self.last(self.kept["both"][0])
        return self.outputs_of_call


def data():
    return tf.constant(np.random.default_rng(0).normal(size=(8, 5)), "float32")


def directions_and_gradients(model, x, **kwargs):
    keras.utils.set_random_seed(0)
    model(x)
    weights = model.trainable_variables

    def loss():
        return tf.reduce_sum(tf.sin(model(x, **kwargs)))

    with tf.GradientTape() as tape:
        value = loss()
    gradients = tape.gradient(value, weights)
    with ImplicitGradientTape(model, TAU) as tape:
        value = loss()
    found = zip(weights, tape.gradient(value, weights), gradients)
    return {v.path.split("/", 1)[1]: (d, g) for v, d, g in found}


def test_a_model_that_asks_for_values_steps_as_any_other():
    found = directions_and_gradients(Asking(), data(), training=True)
    names = ["first/kernel", "first/bias"]
    expected = implicit_direction([data()], [found[name][1] for name in names], TAU)
    for name, e in zip(names, expected):
        # Before a batch normalization the gradient of a bias is rounding.
        if name == "first/kernel":
            assert_close(found[name][0], e, 1e-3)
    assert_close(*found["last/kernel"], 1e-5)
    assert not np.allclose(*found["normal/gamma"], rtol=1e-2)


def test_its_statistics_move_once_and_it_trains():
    moved = []
    ours = ProxProp(exclude=keras.layers.BatchNormalization)
    for optimizer in (ours, keras.optimizers.Adam()):
        keras.utils.set_random_seed(0)
        model = Asking()
        model(data())
        model.compile(optimizer, "mse", run_eagerly=True)
        model.train_on_batch(data(), np.ones((8, 2)))
        moved.append(model.normal.moving_mean.numpy())
    assert np.any(moved[0] != 0)
    assert_close(moved[0], moved[1], 1e-6)
    losses = model.fit(data(), np.ones((8, 2)), epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_its_weights_that_are_read_elsewhere_step_explicitly():
    found = directions_and_gradients(Tied(), data())
    assert_close(*found["first/kernel"], 1e-5)
    assert not np.allclose(*found["second/kernel"], rtol=1e-2)


@pytest.mark.parametrize("make", FINAL, ids=lambda make: make.__name__)
def test_a_tape_finds_the_final_layers_that_a_graph_shows(make):
    model, x = make(), tf.ones([8, 4])
    model(x)
    found = final_layers_of_call(model, (x,), {})
    dense = [layer for layer in model._flatten_layers() if isinstance(layer, layers.Dense)]
    assert sorted(layer.name for layer in dense if id(layer) in found) == FINAL[make]


@pytest.mark.filterwarnings("ignore:No layer of model")
def test_the_arguments_of_an_eager_call_decide_which_layers_are_final():
    model, x = Choosing(), data()
    model(x)

    def explicit(**kwargs):
        return explicit_layers(model, x, call=lambda model, x: model(x, **kwargs))

    assert explicit(hidden=False) == ["last"]
    assert explicit(hidden=True) == ["first", "last"]
    assert explicit(options={"hidden": False}) == ["last"]
    assert explicit(options={"hidden": True}) == ["first", "last"]
    both = explicit_layers(model, x, call=lambda model, x: [model(x), model(x, hidden=True)])
    assert both == ["first", "last"]


@pytest.mark.parametrize("make", [Keeping, Asking])
def test_no_tensor_of_a_graph_is_left_in_a_model_that_runs_eagerly(make):
    model = make()
    model(data())
    model.compile(ProxProp(), "mse", run_eagerly=True)
    model.train_on_batch(data(), np.ones((8, 2)))
    if make is Asking:
        kept = [model.hidden]
    else:
        kept = [model.kept["both"][0], model.outputs_of_call]
    assert all(np.isfinite(tensor.numpy()).all() for tensor in kept)


def test_an_attribute_that_only_the_trace_would_make_is_not_made():
    class Later(Keeping):
        def call(self, x):
            if not tf.executing_eagerly():
                self.made = x
            return super().call(x)

    model = Later()
    model(data())
    # Keras's own, from building the model.
    vars(model).pop("made", None)
    with ImplicitGradientTape(model) as tape:
        loss = tf.reduce_sum(model(data()))
    tape.gradient(loss, model.trainable_variables)
    assert not hasattr(model, "made")


@pytest.mark.parametrize("make", [Keeping, Asking])
def test_a_tape_that_still_records_notes_nothing_of_the_second_run(make):
    model = make()
    model(data())
    with ImplicitGradientTape(model, TAU, persistent=True) as tape:
        loss = tf.reduce_sum(model(data()) ** 2)
        first = tape.gradient(loss, model.first.kernel)
        again = tape.gradient(loss, model.first.kernel)
    assert_close(first, again, 1e-6)
    assert_close(tape.gradient(loss, model.first.kernel), again, 1e-6)
