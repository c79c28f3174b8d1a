"""RowAdam: Adam whose steps follow the number of rows, against NumPy in float64."""

import keras
import numpy as np
import pytest
import small_net
import tensorflow as tf
from helpers import MODES, assert_close, assert_equal_weights, weights_of
from small_net import data

from keras_proxprop import ImplicitGradientTape, ProxProp, RowAdam
from keras_proxprop.optimizers.row_adam import row_factor

L = keras.layers
RATE, TAU = 0.01, 0.7


def net():
    return small_net.net(lambda: L.Dense(4, "tanh"))


PER_ITEM = (36, 36, 2, 2, 1, 1, None, None)


def reference(batch_size, steps_of_one=1, solver="auto"):
    """The weights after an epoch: the tape's directions, NumPy's Adam, one batch after the
    other, or several whose directions are averaged."""
    model = net()
    x, y = data()
    weights = [w.astype(np.float64) for w in model.get_weights()]
    m, v = ([np.zeros_like(w) for w in weights] for _ in range(2))
    collected = []
    for t, start in enumerate(range(0, len(x), batch_size), 1):
        batch = slice(start, start + batch_size)
        model.set_weights(weights)
        with ImplicitGradientTape(model, TAU, solver) as tape:
            loss = tf.reduce_mean((y[batch] - model(x[batch])) ** 2)
        directions = tape.gradient(loss, model.trainable_variables)
        collected.append([p.numpy().astype(np.float64) for p in directions])
        if t % steps_of_one:
            continue
        directions, collected = [np.mean(p, axis=0) for p in zip(*collected)], []
        step = t // steps_of_one
        for i, (p, per_item) in enumerate(zip(directions, PER_ITEM)):
            m[i] = 0.9 * m[i] + 0.1 * p
            v[i] = 0.999 * v[i] + 0.001 * p**2
            mean, root = m[i] / (1 - 0.9**step), np.sqrt(v[i] / (1 - 0.999**step))
            rows = per_item and per_item * len(x[batch])
            factor = np.clip((rows / 64) ** (1 / 3), 0.5, 8) if rows else 1.0
            weights[i] -= RATE * factor * mean / (root + 1e-12)
    return weights


def trained(*args, **kwargs):
    return small_net.trained(net(), *args, **kwargs)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_steps_are_those_of_numpy_and_the_last_batch_is_smaller(mode):
    proxprop = ProxProp(RowAdam(RATE), tau=TAU, memory=None)
    model = trained(proxprop, 8, **MODES[mode])
    for weight, expected in zip(weights_of(model), reference(8)):
        assert_close(weight, expected, 1e-4)


def test_steps_are_those_of_numpy_under_xla():
    # With CG there is least to compile.
    proxprop = ProxProp(RowAdam(RATE), tau=TAU, memory=None, solver="cg")
    model = trained(proxprop, 10, jit_compile=True)
    for weight, expected in zip(weights_of(model), reference(10, solver="cg")):
        assert_close(weight, expected, 1e-4)


def test_with_accumulated_directions():
    inner = RowAdam(RATE, gradient_accumulation_steps=2)
    proxprop = ProxProp(inner, tau=TAU, memory=None)
    model = trained(proxprop, 10, jit_compile=False)
    for weight, expected in zip(weights_of(model), reference(10, steps_of_one=2)):
        assert_close(weight, expected, 1e-4)


def test_inside_of_a_loss_scale_optimizer():
    proxprop = ProxProp(RowAdam(RATE), tau=TAU, memory=None)
    scaling = keras.optimizers.LossScaleOptimizer(proxprop, initial_scale=2.0**4)
    model = trained(scaling, 8, jit_compile=False)
    for weight, expected in zip(weights_of(model), reference(8)):
        assert_close(weight, expected, 1e-4)


@pytest.mark.parametrize("rows, factor", [(1, 0.5), (8, 0.5), (64, 1), (512, 2), (10**6, 8)])
def test_the_factor_is_a_cube_root_with_limits(rows, factor):
    assert row_factor(rows) == pytest.approx(factor)
    assert row_factor(tf.constant(rows)).numpy() == pytest.approx(factor)


def test_with_plain_gradients_it_is_adam():
    optimizers = RowAdam(RATE), keras.optimizers.Adam(RATE, epsilon=1e-12)
    ours, kerass = (trained(o, 8, jit_compile=False) for o in optimizers)
    assert_equal_weights(weights_of(ours), weights_of(kerass))


def test_where_the_number_of_rows_is_not_known_a_step_is_adams():
    """The rows of directions from a graph of their own are not known outside of it."""

    def steps(optimizer):
        model = net()
        x, y = map(tf.constant, data())

        @tf.function(input_signature=[tf.TensorSpec([None, *t.shape[1:]]) for t in (x, y)])
        def directions(x, y):
            with ImplicitGradientTape(model) as tape:
                loss = tf.reduce_mean((y - model(x)) ** 2)
            return tape.gradient(loss, model.trainable_variables)

        optimizer.build(model.trainable_variables)

        @tf.function
        def step():
            optimizer.apply(directions(x, y), model.trainable_variables)

        for _ in range(2):
            step()
        return weights_of(model)

    plain = ProxProp(keras.optimizers.Adam(RATE, epsilon=1e-12))
    assert_equal_weights(steps(ProxProp(RowAdam(RATE))), steps(plain))


def test_a_step_with_some_of_the_variables():
    model = net()
    optimizer = ProxProp(RowAdam(RATE))
    optimizer.build(model.trainable_variables)
    x, y = data(64)
    some = model.trainable_variables[2:4]
    before = weights_of(model)
    with ImplicitGradientTape(model) as tape:
        loss = tf.reduce_mean((y - model(x)) ** 2)
    optimizer.apply(tape.gradient(loss, some), some)
    moved = [np.abs(a - b).max() for a, b in zip(weights_of(model), before)]
    # Adam's first step is the rate for every weight, here of 128 rows.
    np.testing.assert_allclose(moved[2:4], RATE * 2 ** (1 / 3), rtol=1e-3)
    assert not any(moved[:2] + moved[4:])
