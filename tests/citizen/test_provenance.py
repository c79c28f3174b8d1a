"""What a tape made is accepted wherever it is applied; what none made never is."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_close_weights, in_turns, weights_of
from processes import python
from provenance_cases import directions, new
from scenarios import mlp


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
    "clipped by norm": (lambda ds: [tf.clip_by_norm(d, 1e9) for d in ds], 1.0),
    "by Keras": (lambda ds: [keras.ops.clip(d, -1e9, 1e9) for d in ds], 1.0),
    "in another precision": (
        lambda ds: [tf.cast(tf.cast(d, "float64"), "float32") for d in ds],
        1.0,
    ),
    "masked": (lambda ds: [tf.where(tf.abs(d) < 1e9, d, 0.0) for d in ds], 1.0),
    "in a branch": (
        lambda ds: tf.cond(tf.linalg.global_norm(ds) < 1e9, lambda: ds, lambda: ds),
        1.0,
    ),
    "by a function of NumPy": (
        lambda ds: [
            tf.ensure_shape(tf.numpy_function(np.copy, [d], d.dtype), d.shape) for d in ds
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


@pytest.mark.parametrize("change, place", in_turns(CHANGES, PLACES, rounds=2))
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


STRATEGY = """
import keras, numpy as np, tensorflow as tf
import pytest
from logical_devices import mirrored
strategy = mirrored(2)
from provenance_cases import directions, new, plain
from scenarios import mlp
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
