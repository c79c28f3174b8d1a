"""ScheduleFreeAdam: averaged steps of calibrated length, against NumPy in float64."""

import keras
import numpy as np
import pytest
import small_net
import tensorflow as tf
from helpers import MODES, assert_close, assert_close_weights, assert_equal_weights, weights_of
from small_net import data

from keras_proxprop import ImplicitGradientTape, ProxProp, ScheduleFreeAdam, summary

L = keras.layers
RATE, TAU = 0.002, 0.7


class Shift(L.Layer):
    """A weight that belongs to no problem."""

    def build(self, shape):
        self.shift = self.add_weight(shape=(shape[-1],))

    def call(self, x):
        return x + self.shift


def net():
    return small_net.net(Shift)


# Features and columns of the weights, with the biases' column of ones.
SIZES = ((10, 2),) * 2 + ((37, 5),) * 2 + ((1, 10),) + ((11, 2),) * 2


def reference(batch_size, steps_of_one=1, rates=None, epochs=1, solver="auto"):
    """The weights after training: the tape's directions, and the three sequences of Defazio
    et al. written out: points z, their mean x, and y, where directions are made."""
    model = net()
    x_data, y_data = data()
    weights = [w.astype(np.float64) for w in model.get_weights()]
    z, x = [w.copy() for w in weights], [w.copy() for w in weights]
    v = [np.zeros_like(w) for w in weights]
    first = [np.sqrt(np.mean(w**2)) for w in weights]
    collected, total, step = [], 0.0, 0
    starts = [s for _ in range(epochs) for s in range(0, len(x_data), batch_size)]
    for count, start in enumerate(starts, 1):
        batch = slice(start, start + batch_size)
        model.set_weights(weights)
        with ImplicitGradientTape(model, TAU, solver) as tape:
            loss = tf.reduce_mean((y_data[batch] - model(x_data[batch])) ** 2)
        directions = tape.gradient(loss, model.trainable_variables)
        collected.append([p.numpy().astype(np.float64) for p in directions])
        if count % steps_of_one:
            continue
        directions, collected = [np.mean(p, axis=0) for p in zip(*collected)], []
        step += 1
        rate = RATE if rates is None else rates[step - 1]
        items = steps_of_one * len(x_data[batch])
        # t (t + 1) (t + 2), which grows as t³.
        weight = step * (step + 1) * (step + 2)
        total += weight
        for i, (p, (features, columns)) in enumerate(zip(directions, SIZES)):
            v[i] = 0.98 * v[i] + 0.02 * p**2
            size = np.sqrt(2 / (features + columns))
            if first[i] > 0:
                size = min(size, first[i])
            length = 210 * rate * size * np.clip((items / 64) ** 0.25, 1 / 2, 4)
            length /= np.sqrt(1 + (step - 1) / 100)
            p = p / (np.sqrt(v[i] / (1 - 0.98**step)) + 1e-12)
            z[i] -= length * p / max(1, np.sqrt(np.mean(p**2)) / 2)
            x[i] += weight / total * (z[i] - x[i])
            weights[i] = 0.07 * z[i] + 0.93 * x[i]
    return weights


def trained(*args, **kwargs):
    return small_net.trained(net(), *args, **kwargs)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_steps_are_those_of_numpy_and_the_last_batch_is_smaller(mode):
    proxprop = ProxProp(learning_rate=RATE, tau=TAU, memory=None)
    model = trained(proxprop, 8, **MODES[mode])
    assert_close_weights(weights_of(model), reference(8), 1e-4)


def test_steps_are_those_of_numpy_under_xla():
    # With CG there is least to compile.
    proxprop = ProxProp(learning_rate=RATE, tau=TAU, memory=None, solver="cg")
    model = trained(proxprop, 10, jit_compile=True)
    assert_close_weights(weights_of(model), reference(10, solver="cg"), 1e-4)


def test_many_steps():
    proxprop = ProxProp(learning_rate=RATE, tau=TAU, memory=None)
    model = trained(proxprop, 8, epochs=7, jit_compile=False)
    assert_close_weights(weights_of(model), reference(8, epochs=7), 1e-3)


@pytest.mark.parametrize("shape", [(6, 4), (100, 90)], ids=["small-ones-together", "alone"])
def test_a_batch_much_unlike_those_before_makes_a_step_of_two_usual_ones(shape):
    random = np.random.default_rng(0)
    # With a share of 0 the weights are the points `z`.
    optimizer, weight = (
        ScheduleFreeAdam(beta_1=0.0),
        keras.Variable(np.zeros(shape, "float32")),
    )
    optimizer.build([weight])
    points = [weight.numpy()]
    for scale in [1.0] * 40 + [1000.0]:
        gradient = scale * random.choice([-1.0, 1.0], shape)
        optimizer.apply([tf.constant(gradient, "float32")], [weight])
        points.append(weight.numpy())
    lengths = np.sqrt(np.mean(np.diff(points, axis=0) ** 2, axis=(1, 2)))
    lengths *= np.sqrt(1 + np.arange(41) / 100)
    assert_close(lengths / lengths[0], [1.0] * 40 + [2.0], 1e-4)


def test_with_accumulated_directions():
    proxprop = ProxProp(
        learning_rate=RATE, tau=TAU, memory=None, gradient_accumulation_steps=2
    )
    model = trained(proxprop, 10, epochs=2, jit_compile=False)
    assert_close_weights(weights_of(model), reference(10, steps_of_one=2, epochs=2), 1e-4)


def test_with_a_schedule():
    schedule = keras.optimizers.schedules.CosineDecay(RATE, 9)
    model = trained(ProxProp(learning_rate=schedule, tau=TAU, memory=None), 8, 3)
    rates = [float(schedule(i)) for i in range(9)]
    assert_close_weights(weights_of(model), reference(8, rates=rates, epochs=3), 1e-3)


def test_inside_of_a_loss_scale_optimizer():
    proxprop = ProxProp(learning_rate=RATE, tau=TAU, memory=None)
    scaling = keras.optimizers.LossScaleOptimizer(proxprop, initial_scale=2.0**4)
    model = trained(scaling, 8, jit_compile=False)
    assert_close_weights(weights_of(model), reference(8), 1e-4)


def test_what_is_written_into_the_weights_is_not_undone():
    model = trained(ProxProp(memory=None), 8, epochs=3)
    raised = [w + 5 for w in model.get_weights()]
    model.set_weights(raised)
    model.optimizer.learning_rate = 1e-9
    model.fit(*data(), batch_size=20, verbose=0)
    for after, before in zip(weights_of(model), raised):
        assert np.abs(after - before).max() < 1


def test_constraints_hold_after_every_step():
    keras.utils.set_random_seed(0)
    constraint = keras.constraints.NonNeg()
    layers = [L.Dense(8, "tanh", kernel_constraint=constraint), L.Dense(2)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(ProxProp(), loss="mse")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(32, 4)), random.normal(size=(32, 2))
    for _ in range(3):
        model.fit(x, y, verbose=0)
        assert layers[0].kernel.numpy().min() >= 0


def test_training_goes_on_to_the_bit_after_saving(tmp_path):
    whole = trained(ProxProp(), 8, epochs=4, jit_compile=False)
    half = trained(ProxProp(), 8, epochs=2, jit_compile=False)
    half.save(tmp_path / "model.keras")
    other = keras.models.load_model(
        tmp_path / "model.keras", custom_objects={"Shift": Shift}, compile=True
    )
    other.fit(*data(), batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert_equal_weights(weights_of(other), weights_of(whole))


def test_it_is_the_default_and_takes_its_arguments():
    optimizer = ProxProp(learning_rate=0.02, weight_decay=0.1, beta_1=0.8)
    again = ProxProp.from_config(optimizer.get_config())
    for inner in (optimizer.inner_optimizer, again.inner_optimizer):
        assert type(inner) is ScheduleFreeAdam
        assert float(inner.learning_rate) == pytest.approx(0.02)
        assert (inner.weight_decay, inner.beta_1, inner.epsilon) == (0.1, 0.8, 1e-12)
    assert type(ProxProp("adam").inner_optimizer) is keras.optimizers.Adam


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_a_row_that_is_not_looked_up_keeps_its_mean_of_squares(jit_compile):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), L.Embedding(7, 3), L.Flatten()])
    table = model.layers[0].embeddings
    random = np.random.default_rng(0)
    # Row 6 is never looked up, row 5 for the first time in the last batch but one.
    ids = np.array([[0, 1], [0, 0], [2, 3], [0, 4], [5, 1], [2, 5]])
    targets = random.normal(size=(6, 6)).astype("float32")
    w = table.numpy().astype(np.float64)
    z, x, v, total = w.copy(), w.copy(), np.zeros_like(w), 0.0
    first = np.sqrt(np.mean(w**2))
    proxprop = ProxProp(learning_rate=RATE, tau=TAU, final_layer="implicit")
    model.compile(proxprop, "mse", jit_compile=jit_compile)
    model.fit(ids, targets, batch_size=1, epochs=4, shuffle=False, verbose=0)
    for step in range(1, 25):
        own, target = ids[(step - 1) % 6], targets[(step - 1) % 6].reshape(2, 3)
        counts = np.bincount(own, minlength=7)[:, None]
        p = np.zeros_like(w)
        np.add.at(p, own, (w[own] - target) / 3 / (counts[own] + 1 / TAU))
        seen, new = counts[:, 0] > 0, counts[:, 0] * v[:, 0] == 0
        forgotten = 0.98**step
        v[seen & new] = (1 - forgotten) * p[seen & new] ** 2
        v[seen & ~new] += 0.02 * (p**2 - v)[seen & ~new]
        size = max(min(np.sqrt(2 / 10), first), np.sqrt(np.mean(w**2)), 0.5 / np.sqrt(3))
        length = 210 * RATE * size / np.sqrt(1 + (step - 1) / 100)
        p /= np.sqrt(v / (1 - forgotten)) + 1e-12
        z -= length * p / max(1, np.sqrt(np.mean(p**2)) / 2)
        weight = step * (step + 1) * (step + 2)
        total += weight
        x += weight / total * (z - x)
        w = 0.07 * z + 0.93 * x
    assert_close(table.numpy(), w, 1e-4)


def test_summary_tells_the_factors():
    model = net()
    reports = {r.name: r for r in summary(model, batch_size=64, print_fn=lambda line: None)}
    for layer, (features, columns) in zip((0, 2, 5), (SIZES[0], SIZES[2], SIZES[5])):
        kernel = model.layers[layer].kernel.numpy()
        size = min(np.sqrt(2 / (features + columns)), np.sqrt(np.mean(kernel**2)))
        assert_close(reports[model.layers[layer].name].rate, 210 * size, 1e-6)
