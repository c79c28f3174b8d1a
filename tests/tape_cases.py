"""What can be done with a tape: each case is run with TensorFlow's and with the package's."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from tape_net import array, as_list
from tape_watching import (
    a_frozen_bias_watched_by_hand,
    all_variables_watched_by_hand,
    no_variables_watched,
    one_layer_watched_by_hand,
    the_last_layer_watched_by_hand,
    watched_too_late,
    watched_variables,
)

NONE, ZERO = tf.UnconnectedGradients.NONE, tf.UnconnectedGradients.ZERO


# Each yields pairs: gradients for the model's weights, and what `hidden` was recorded on.
# What else it yields must be the same for both tapes.


def one_gradient(tape_class, net):
    with tape_class() as tape:
        loss = net.loss()
    yield tape.gradient(loss, net.weights), [net.x]


def several_gradients(tape_class, net):
    with tape_class(persistent=True) as tape:
        y = net.model(net.x)
        losses = tf.reduce_mean(y**2), tf.reduce_sum(tf.sin(y))
    for loss in (*losses, losses[0]):
        yield tape.gradient(loss, net.weights), [net.x]


def targets_in_a_nest(tape_class, net):
    with tape_class() as tape:
        target = {"a": net.loss(), "b": [net.loss(net.other), 2 * net.loss()]}
    yield tape.gradient(target, net.weights), [net.x, net.other, net.x]


def a_target_that_is_no_scalar(tape_class, net):
    with tape_class() as tape:
        y = net.model(net.x)
    yield tape.gradient(y, net.weights), [net.x]


def output_gradients(tape_class, net):
    with tape_class(persistent=True) as tape:
        y, z = net.model(net.x), net.model(net.other)
    rows = [net.x, net.other]
    yield tape.gradient([y, z], net.weights, [tf.sin(y), tf.cos(z)]), rows
    yield tape.gradient(y, net.weights, output_gradients=tf.Variable(tf.sin(y))), [net.x]


def sources_in_a_nest(tape_class, net):
    with tape_class() as tape:
        tape.watch(net.x)
        loss = net.loss()
    kernel, bias, *last = net.weights
    found = tape.gradient(loss, {"hidden": (kernel, [bias]), "x": net.x, "last": last})
    assert found.keys() == {"hidden", "x", "last"} and isinstance(found["hidden"], tuple)
    yield [found["hidden"][0], *found["hidden"][1], *found["last"]], [net.x]
    yield found["x"]


def a_source_that_is_no_nest(tape_class, net):
    with tape_class() as tape:
        loss = net.loss()
    yield [None, None, tape.gradient(loss, net.last.kernel), None], []


def a_source_given_twice(tape_class, net):
    with tape_class() as tape:
        loss = net.loss()
    kernel, bias, *last = net.weights
    first, bias, second, *last = tape.gradient(loss, [kernel, bias, kernel, *last])
    np.testing.assert_array_equal(first, second)
    yield [first, bias, *last], [net.x]


def unconnected(value, tape_class, net):
    with tape_class(persistent=True) as tape:
        loss, other = net.loss(), tf.reduce_sum(net.hidden(net.x))
    options = {"unconnected_gradients": value}
    yield tape.gradient(loss, [net.unused, net.x], **options)
    yield tape.gradient(other, net.native[2:], **options)
    yield tape.gradient(net.other, net.native, **options), []
    # The call that the loss does not depend on is no row of its problem.
    yield tape.gradient(loss, net.native, **options), [net.x]


def a_pass_while_recording_is_stopped(tape_class, net):
    with tape_class() as tape:
        with tape.stop_recording():
            forgotten = net.loss(net.other)
        loss = net.loss() + forgotten
    yield tape.gradient(loss, net.weights), [net.x]


def a_gradient_while_recording_is_stopped(tape_class, net):
    with tape_class(persistent=True) as tape:
        loss = net.loss()
        with tape.stop_recording():
            yield tape.gradient(loss, net.weights), [net.x]
        loss += net.loss(net.other)
    yield tape.gradient(loss, net.weights), [net.x, net.other]


def an_exception_while_recording_is_stopped(tape_class, net):
    with tape_class() as tape:
        with pytest.raises(ZeroDivisionError), tape.stop_recording():
            raise ZeroDivisionError
        loss = net.loss()
    yield tape.gradient(loss, net.weights), [net.x]


def a_pass_before_a_reset(tape_class, net):
    with tape_class() as tape:
        forgotten = net.loss(net.other)
        tape.reset()
        loss = net.loss() + forgotten
    yield tape.gradient(loss, net.weights), [net.x]


def nothing_after_a_reset(tape_class, net):
    with tape_class() as tape:
        loss = net.loss()
        tape.reset()
    yield tape.gradient(loss, net.weights), []


def a_context_entered_twice(tape_class, net):
    tape = tape_class()
    with tape:
        loss = net.loss()
    net.loss(net.other)
    with tape:
        loss += net.loss(2 * net.x)
    yield tape.gradient(loss, net.weights), [net.x, 2 * net.x]


def a_context_entered_again_after_its_gradient(tape_class, net):
    tape = tape_class()
    for x in (net.x, net.other):
        with tape:
            loss = net.loss(x)
        yield tape.gradient(loss, net.weights), [x]


def a_gradient_inside_of_the_context(tape_class, net):
    with tape_class() as tape:
        loss = net.loss()
        yield tape.gradient(loss, net.weights), [net.x]
        # Nothing records this, and nothing minds it.
        net.loss(net.other)
    with tape:
        loss = net.loss(net.other)
    yield tape.gradient(loss, net.weights), [net.other]


def gradients_inside_of_a_context_that_persists(tape_class, net):
    with tape_class(persistent=True) as tape:
        loss = net.loss()
        yield tape.gradient(loss, net.weights), [net.x]
        loss += net.loss(net.other)
        yield tape.gradient(loss, net.weights), [net.x, net.other]


def a_gradient_after_an_exception(tape_class, net):
    tape = tape_class()
    with pytest.raises(ZeroDivisionError), tape:
        loss = net.loss()
        raise ZeroDivisionError
    yield tape.gradient(loss, net.weights), [net.x]


BEHAVIOURS = [
    one_gradient,
    several_gradients,
    targets_in_a_nest,
    a_target_that_is_no_scalar,
    output_gradients,
    sources_in_a_nest,
    a_source_that_is_no_nest,
    a_source_given_twice,
    a_pass_while_recording_is_stopped,
    a_gradient_while_recording_is_stopped,
    an_exception_while_recording_is_stopped,
    a_pass_before_a_reset,
    nothing_after_a_reset,
    a_context_entered_twice,
    a_context_entered_again_after_its_gradient,
    a_gradient_inside_of_the_context,
    gradients_inside_of_a_context_that_persists,
    watched_variables,
    no_variables_watched,
    all_variables_watched_by_hand,
    one_layer_watched_by_hand,
    the_last_layer_watched_by_hand,
    watched_too_late,
    a_frozen_bias_watched_by_hand,
    a_gradient_after_an_exception,
]
BEHAVIOURS = {b.__name__: b for b in BEHAVIOURS}
for value in (NONE, ZERO, "none", "zero"):
    BEHAVIOURS[f"unconnected_{value}"] = functools.partial(unconnected, value)


def run(behave, tape_class, net):
    """Returns what a behaviour yields, and the rows that go with it, `None` if none do."""
    results, rows = [], []
    for item in behave(tape_class, net):
        pair = item if isinstance(item, tuple) else (item, None)
        results.append([r if isinstance(r, str) else array(r) for r in as_list(pair[0])])
        rows.append(pair[1])
    return results, rows
