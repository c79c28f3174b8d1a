"""The moving statistics of `BatchNormalization` keep up with the weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import MODES, assert_close, in_turns
from processes import python

from keras_proxprop import ImplicitGradientTape, ProxProp

L = keras.layers
STEPS, BATCH = 6, 8


def data(seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(2.0, 3.0, size=(STEPS * BATCH, 5))
    return x, random.normal(size=(STEPS * BATCH, 2))


def net(momentum, dtype=None):
    """A normalization of the inputs, whose statistics are those of the data."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((5,), dtype="float64" if dtype == "float64" else None)
    normalized = L.BatchNormalization(momentum=momentum, dtype=dtype)(inputs)
    hidden = L.Dense(4, "tanh", dtype=dtype)(normalized)
    return keras.Model(inputs, L.Dense(2, dtype=dtype)(hidden))


def expected(x, momentum, first=0):
    """Returns the moving mean and variance, in NumPy."""
    mean, variance = np.zeros(5), np.ones(5)
    for step, batch in enumerate(np.split(x, STEPS), first):
        m = min(momentum, step / (step + 30))
        mean = m * mean + (1 - m) * batch.mean(0)
        variance = m * variance + (1 - m) * batch.var(0)
    return mean, variance


def check(layer, x, momentum, tolerance=1e-5, **kwargs):
    found = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    for own, other in zip(found, expected(x, momentum, **kwargs)):
        assert_close(own, other, tolerance)
    assert layer.momentum == momentum and layer.get_config()["momentum"] == momentum


@pytest.mark.parametrize(
    "mode, momentum, dtype",
    in_turns(MODES, [0.99, 0.1], [None, "float64", "mixed_bfloat16", "mixed_float16"]),
)
def test_they_average_over_few_steps_at_first(mode, momentum, dtype):
    model, (x, y) = net(momentum, dtype), data()
    model.compile(optimizer=ProxProp(), loss="mse", **MODES[mode])
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    half = dtype in ("mixed_bfloat16", "mixed_float16")
    check(model.layers[1], x, momentum, 1e-2 if half else 1e-5)


@pytest.mark.parametrize("optimizer", [ProxProp, lambda: ProxProp("adam", memory=None)])
def test_so_they_do_in_a_loop_of_the_users_own(optimizer):
    model, (x, y), optimizer = net(0.99), data(), optimizer()
    optimizer.build(model.trainable_variables)
    mse = keras.losses.MeanSquaredError()

    @tf.function
    def step(x, y):
        with ImplicitGradientTape(model, **optimizer.step_arguments()) as tape:
            loss = mse(y, model(x, training=True))
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))

    for batch in zip(np.split(x, STEPS), np.split(y, STEPS)):
        step(*map(tf.constant, batch))
    check(model.layers[1], x, 0.99)


def test_a_training_goes_on_with_as_many_steps(tmp_path):
    model, (x, y) = net(0.99), data()
    model.compile(optimizer=ProxProp(), loss="mse", jit_compile=False)
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    layer = loaded.layers[1]
    layer.moving_mean.assign(np.zeros(5))
    layer.moving_variance.assign(np.ones(5))
    loaded.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    check(layer, x, 0.99, first=STEPS)


@pytest.mark.parametrize("within", ["model", "function", "time"])
def test_they_keep_up_wherever_the_layer_is_called(within):
    x, y = data()
    layer = L.BatchNormalization()
    inner = keras.Sequential([keras.Input((5,)), layer, L.Dense(4)])

    class Calling(L.Layer):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def call(self, x):
            # A function that is traced for this call, where the statistics are assigned.
            return tf.function(lambda x: self.inner(x, training=True))(x)

    if within == "time":
        kind, x, y = L.TimeDistributed(inner), x[:, None], y[:, None]
    else:
        kind = inner if within == "model" else Calling()
    model = keras.Sequential([keras.Input(x.shape[1:]), kind, L.Dense(4, "tanh"), L.Dense(2)])
    model.compile(optimizer=ProxProp(), loss="mse", jit_compile=False)
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    check(layer, x.reshape(-1, 5), 0.99)


@pytest.mark.parametrize("call", ["keywords", "argument", "not training"])
def test_they_keep_up_however_the_layer_is_called(call):
    class Calling(L.Layer):
        def __init__(self):
            super().__init__()
            self.layer = L.BatchNormalization()

        def call(self, x, training=None):
            if call == "keywords":
                return self.layer(inputs=x, training=training)
            return self.layer(x, training=call == "argument")

    calling, (x, y) = Calling(), data()
    model = keras.Sequential([keras.Input((5,)), calling, L.Dense(4, "tanh"), L.Dense(2)])
    model.compile(optimizer=ProxProp(), loss="mse", jit_compile=False)
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    if call == "not training":
        np.testing.assert_array_equal(calling.layer.moving_mean, np.zeros(5))
    else:
        check(calling.layer, x, 0.99)


@pytest.mark.parametrize("how", ["adam", "excluded", "tape", "frozen", "inference"])
def test_nothing_else_changes_them(how):
    x, y = data()
    model = net(0.99)
    layer = model.layers[1]
    layer.trainable = how != "frozen"
    if how == "tape":
        with ImplicitGradientTape(model):
            model(x[:BATCH], training=True)
        assert_close(layer.moving_mean, 0.01 * x[:BATCH].mean(0), 1e-5)
        return
    excluded = ProxProp(exclude=L.BatchNormalization)
    optimizer = {"adam": "adam", "excluded": excluded}.get(how) or ProxProp()
    model.compile(optimizer=optimizer, loss="mse", jit_compile=False)
    if how == "inference":
        model.evaluate(x, y, verbose=0)
    else:
        model.train_on_batch(x[:BATCH], y[:BATCH])
    mean = 0.01 * x[:BATCH].mean(0) if how in ("adam", "excluded") else np.zeros(5)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)


def test_a_net_fits_its_data_in_inference_after_a_hundred_steps_as_in_training():
    random = np.random.default_rng(0)
    x = random.normal(size=(512, 8, 8, 2)).astype("float32")
    y = np.argmax(np.stack([x[:, :4].mean((1, 2, 3)), x[:, 4:].mean((1, 2, 3))]), 0)
    keras.utils.set_random_seed(0)
    images = outputs = keras.Input((8, 8, 2))
    for filters in (8, 16, 16):
        outputs = L.Conv2D(filters, 3, padding="same")(outputs)
        outputs = L.ReLU()(L.BatchNormalization()(outputs))
    model = keras.Model(images, L.Dense(2)(L.Flatten()(outputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=ProxProp(), loss=loss, jit_compile=False)
    model.fit(x, y, batch_size=64, epochs=12, verbose=0)
    training = float(loss(y, model(x, training=True)))
    assert training < 0.2
    # Averages over the last hundred steps gave 40 times the loss.
    assert model.evaluate(x, y, batch_size=512, verbose=0) < training + 0.1


REPLICAS = """
import keras, numpy as np
from helpers import assert_close
from logical_devices import mirrored
from keras_proxprop import ProxProp

L = keras.layers
strategy = mirrored(2)
x = np.random.default_rng(0).normal(2.0, 3.0, size=(24, 5)).astype("float32")
for synchronized in (False, True):
    with strategy.scope():
        keras.utils.set_random_seed(1)
        inputs = keras.Input((5,))
        layer = L.BatchNormalization(synchronized=synchronized)
        model = keras.Model(inputs, L.Dense(2)(L.Dense(4)(layer(inputs))))
        model.compile(optimizer=ProxProp(), loss="mse", jit_compile=False)
        model.fit(x, np.ones((24, 2)), batch_size=8, shuffle=False, verbose=0)
    mean, variance = np.zeros(5), np.ones(5)
    for step, batch in enumerate(np.split(x.astype("float64"), 3)):
        m = step / (step + 30)
        # Without `synchronized` each replica has statistics, and the first replica's are read.
        part = batch if synchronized else np.split(batch, 2)[0]
        mean = m * mean + (1 - m) * part.mean(0)
        variance = m * variance + (1 - m) * part.var(0)
    assert_close(layer.moving_mean, mean, 1e-5)
    assert_close(layer.moving_variance, variance, 1e-5)
    assert layer.momentum == 0.99
    print("close")
"""


def test_replicas_average_over_as_few():
    assert python(REPLICAS).count("close") == 2
