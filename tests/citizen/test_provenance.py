"""What a tape made is accepted wherever it is applied; what none made never is."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close_weights, assert_equal_weights, weights_of
from scenarios import compiled, data, fit, mlp, python

from keras_proxprop import ImplicitGradientTape, ProxProp

X, Y = map(tf.constant, data(8))


def new():
    return ProxProp("sgd", 0.1, tau=1.0, memory=None)


def directions(model, x=X, y=Y, tape=ImplicitGradientTape):
    with tape(model) if tape is ImplicitGradientTape else tape() as recorded:
        loss = tf.reduce_mean(tf.square(y - model(x)))
    return recorded.gradient(loss, model.trainable_variables)


def expected(factors=(1.0,)):
    """The weights after steps with that many times the directions of the start."""
    model, sgd = mlp(), keras.optimizers.SGD(0.1)
    made = directions(model)
    for factor in factors:
        sgd.apply([factor * d for d in made], model.trainable_variables)
    return weights_of(model)


eager = lambda f: f  # noqa: E731
graph = tf.function
CHANGES = {
    "as they are": (lambda ds: ds, 1.0),
    "scaled": (lambda ds: [0.5 * d for d in ds], 0.5),
    "clipped": (lambda ds: tf.clip_by_global_norm(ds, 1e9)[0], 1.0),
    "clipped by value": (lambda ds: [tf.clip_by_value(d, -1e9, 1e9) for d in ds], 1.0),
    "noisy": (lambda ds: [d + 0.0 * tf.random.normal(d.shape) for d in ds], 1.0),
    "numpy": (lambda ds: [tf.constant(d.numpy()) for d in ds], 1.0),
    "by one vector": (
        lambda ds: [
            tf.reshape(part, d.shape)
            for d, part in zip(
                ds,
                tf.split(
                    tf.concat([tf.reshape(d, [-1]) for d in ds], 0),
                    [int(np.prod(d.shape)) for d in ds],
                ),
            )
        ],
        1.0,
    ),
    "sum of two": (lambda ds: [0.25 * (d + d) for d in ds], 0.5),
}
PLACES = {
    "eager, eager": (eager, eager, False),
    "function, eager": (graph, eager, False),
    "eager, function": (eager, graph, False),
    "function, another": (graph, graph, False),
    "one function": (eager, eager, True),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("place", PLACES)
def test_directions_are_accepted_wherever_and_however_they_are_applied(place, change):
    make, take, together = PLACES[place]
    alter, factor = CHANGES[change]
    if change == "numpy" and (take is graph or together):
        # There is no such thing in a graph: what is applied is an array made outside.
        alter = lambda ds: ds  # noqa: E731
    model, optimizer = mlp(), new()
    optimizer.build(model.trainable_variables)
    made = make(lambda: directions(model))
    applied = take(
        lambda ds: optimizer.apply_gradients(zip(alter(ds), model.trainable_variables))
    )

    def step():
        applied(made())

    step = graph(step) if together else step
    for _ in range(3):
        step()
    reference, sgd = mlp(), keras.optimizers.SGD(0.1)
    for _ in range(3):
        found = [factor * d for d in directions(reference)]
        sgd.apply(found, reference.trainable_variables)
    assert_close_weights(weights_of(model), weights_of(reference), 1e-5)


@pytest.mark.parametrize("wrap", [eager, graph], ids=["eager", "function"])
@pytest.mark.parametrize("where", [eager, graph], ids=["eager", "function"])
def test_directions_may_be_applied_again(where, wrap):
    model, optimizer = mlp(), new()
    optimizer.build(model.trainable_variables)
    made = where(lambda: directions(model))()
    again = wrap(lambda ds: optimizer.apply(ds, model.trainable_variables))
    for _ in range(3):
        again(made)
    assert_close_weights(weights_of(model), expected((1.0, 1.0, 1.0)), 1e-5)


@pytest.mark.parametrize("where", [eager, graph], ids=["eager", "function"])
def test_two_sets_of_directions_may_be_made_before_either_is_applied(where):
    model, optimizer = mlp(), new()
    optimizer.build(model.trainable_variables)

    def step():
        one, two = directions(model), directions(model)
        for ds in (one, two):
            optimizer.apply([0.5 * d for d in ds], model.trainable_variables)

    where(step)()
    assert_close_weights(weights_of(model), expected((0.5, 0.5)), 1e-5)


@pytest.mark.parametrize("where", [eager, graph], ids=["eager", "function"])
def test_directions_may_be_gathered_in_variables_over_batches(where):
    model, optimizer = mlp(), new()
    optimizer.build(model.trainable_variables)
    sums = [tf.Variable(tf.zeros(v.shape)) for v in model.trainable_variables]

    @where
    def gather():
        for kept, d in zip(sums, directions(model)):
            kept.assign_add(0.25 * d)

    @where
    def step():
        optimizer.apply(list(sums), model.trainable_variables)
        for kept in sums:
            kept.assign(tf.zeros_like(kept))

    for _ in range(2):
        for _ in range(4):
            gather()
        step()
    reference, sgd = mlp(), keras.optimizers.SGD(0.1)
    for _ in range(2):
        sgd.apply(directions(reference), reference.trainable_variables)
    assert_close_weights(weights_of(model), weights_of(reference), 1e-5)


def test_each_half_of_the_weights_may_have_its_own_step():
    model, optimizer = mlp(), new()
    optimizer.build(model.trainable_variables)
    made, weights = directions(model), model.trainable_variables
    optimizer.apply([0.5 * d for d in made[:2]], weights[:2])
    optimizer.apply([0.5 * d for d in made[2:]], weights[2:])
    assert_close_weights(weights_of(model), expected((0.5,)), 1e-5)


def test_directions_made_in_a_loop_of_a_graph_are_accepted_there():
    model, optimizer = mlp(), new()
    optimizer.build(model.trainable_variables)

    @tf.function
    def train():
        for _ in tf.range(3):
            ds = directions(model)
            if tf.reduce_all([tf.reduce_all(tf.math.is_finite(d)) for d in ds]):
                optimizer.apply(ds, model.trainable_variables)

    train()
    assert int(optimizer.iterations) == 3


def plain(model, x=X, y=Y):
    return directions(model, x, y, tf.GradientTape)


class Plain(keras.Model):
    """A training step as Keras's guides write it."""

    def train_step(self, data):
        self.optimizer.apply(plain(self, *data), self.trainable_variables)
        return {"loss": tf.constant(0.0)}


def plain_model():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(6, "tanh")(inputs)
    return Plain(inputs, keras.layers.Dense(2)(hidden))


BEFORE = {
    "nothing": lambda model, optimizer: None,
    "an eager step": lambda model, optimizer: optimizer.apply(
        directions(model), model.trainable_variables
    ),
    "a changed eager step": lambda model, optimizer: optimizer.apply(
        [0.5 * d for d in directions(model)], model.trainable_variables
    ),
    "a step in a function": lambda model, optimizer: tf.function(
        lambda: optimizer.apply(directions(model), model.trainable_variables)
    )(),
    "a scaled step in a function": lambda model, optimizer: tf.function(
        lambda: optimizer.apply([2 * d for d in directions(model)], model.trainable_variables)
    )(),
}


def by_fit(model, optimizer, **kwargs):
    fit(compiled(model, optimizer, **kwargs), X.numpy(), Y.numpy())


def retraced(model, optimizer):
    @tf.function
    def step(x, y):
        optimizer.apply(plain(model, x, y), model.trainable_variables)

    for rows in (8, 4):
        with pytest.raises(RuntimeError, match="plain gradients"):
            step(X[:rows], Y[:rows])
    step(X[:2], Y[:2])


REFUSED = {
    "fit": by_fit,
    "eager fit": lambda m, o: by_fit(m, o, run_eagerly=True),
    "scaled fit": lambda m, o: by_fit(m, keras.optimizers.LossScaleOptimizer(o)),
    "loop in fit": lambda m, o: by_fit(m, o, steps_per_execution=2),
    "eager": lambda m, o: o.apply(plain(m), m.trainable_variables),
    "function": lambda m, o: tf.function(lambda: o.apply(plain(m), m.trainable_variables))(),
    "clipped": lambda m, o: tf.function(
        lambda: o.apply(
            tf.clip_by_global_norm(plain(m), 1.0)[0],
            m.trainable_variables,
        )
    )(),
    "retraced": retraced,
    "numbers": lambda m, o: o.apply(
        [tf.ones(v.shape) for v in m.trainable_variables], m.trainable_variables
    ),
}


@pytest.mark.parametrize("form", REFUSED)
@pytest.mark.parametrize("before", BEFORE)
def test_plain_gradients_are_refused_in_each_form_whatever_went_before(before, form):
    model, optimizer = plain_model(), new()
    optimizer.build(model.trainable_variables)
    BEFORE[before](model, optimizer)
    at_first = weights_of(model)
    with pytest.raises(RuntimeError, match="ImplicitGradientTape"):
        REFUSED[form](model, optimizer)
    assert_equal_weights(weights_of(model), at_first)


def test_directions_used_elsewhere_let_no_plain_training_step_of_a_graph_through():
    model, optimizer = plain_model(), new()
    keras.optimizers.SGD().apply(directions(model), model.trainable_variables)
    with pytest.raises(RuntimeError, match="plain gradients"):
        by_fit(model, optimizer)


def test_after_fit_a_loop_of_plain_gradients_is_refused():
    model, optimizer = mlp(), new()
    by_fit(model, optimizer)
    before = weights_of(model)
    for form in ("eager", "function", "numbers"):
        with pytest.raises(RuntimeError, match="plain gradients"):
            REFUSED[form](model, optimizer)
    assert_equal_weights(weights_of(model), before)


def test_plain_gradients_of_some_weights_are_refused_by_name():
    model, optimizer = mlp(), new()
    weights = model.trainable_variables
    with pytest.raises(RuntimeError, match="last/kernel") as raised:
        # The tape granted the last layer's weights too: another tape's are not those.
        tf.function(
            lambda: optimizer.apply(directions(model)[:2] + plain(model)[2:], weights)
        )()
    assert "hidden" not in str(raised.value)


STRATEGY = """
import keras, numpy as np, tensorflow as tf
import pytest
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
devices = [device.name for device in tf.config.list_logical_devices("CPU")]
strategy = tf.distribute.MirroredStrategy(devices)
from test_provenance import directions, mlp, new, plain
from helpers import weights_of, assert_equal_weights

with strategy.scope():
    model, optimizer = mlp(), new()
    optimizer.build(model.trainable_variables)
weights = model.trainable_variables

def accepted(wrap):
    def whole():
        optimizer.apply([0.5 * d for d in directions(model)], weights)

    wrap(lambda: strategy.run(whole))()

def refused(wrap):
    before = weights_of(model)
    with pytest.raises(RuntimeError, match="plain gradients"):
        wrap(lambda: strategy.run(lambda: optimizer.apply(plain(model), weights)))()
    assert_equal_weights(weights_of(model), before)

refused(tf.function)
for wrap in (tf.function, lambda f: f, tf.function):
    accepted(wrap)
    refused(tf.function)
    refused(lambda f: f)
made = tf.function(lambda: strategy.run(lambda: directions(model)))
taken = tf.function(lambda ds: strategy.run(lambda d: optimizer.apply(d, weights), (ds,)))
for _ in range(2):
    taken(made())
    strategy.run(lambda d: optimizer.apply(d, weights), (made(),))
assert int(optimizer.iterations.numpy()) == 7
print("as alone")
"""


def test_under_a_strategy_the_same_is_accepted_and_the_same_refused():
    assert "as alone" in python(STRATEGY)
