"""What can be done with a tape that watches by hand."""

import tensorflow as tf


def watched_variables(tape_class, net):
    with tape_class() as tape:
        yield [v.name for v in tape.watched_variables()]
        loss = net.loss() + tf.reduce_sum(net.unused)
        yield [v.name for v in tape.watched_variables()]
    yield [v.name for v in tape.watched_variables()]
    yield tape.gradient(loss, net.weights), [net.x]
    yield [v.name for v in tape.watched_variables()]


def no_variables_watched(tape_class, net):
    with tape_class(watch_accessed_variables=False) as tape:
        loss = net.loss()
        yield [v.name for v in tape.watched_variables()]
    yield tape.gradient(loss, net.weights), [net.x]


def all_variables_watched_by_hand(tape_class, net):
    with tape_class(watch_accessed_variables=False) as tape:
        tape.watch(net.native)
        loss = net.loss()
    yield tape.gradient(loss, net.weights), [net.x]


def one_layer_watched_by_hand(tape_class, net):
    with tape_class(watch_accessed_variables=False, persistent=True) as tape:
        tape.watch(net.x)
        for v in net.native[:2]:
            tape.watch(v)
        loss = net.loss()
        yield [v.name for v in tape.watched_variables()]
    yield tape.gradient(loss, net.weights), [net.x]
    yield tape.gradient(loss, net.x)


def the_last_layer_watched_by_hand(tape_class, net):
    with tape_class(watch_accessed_variables=False) as tape:
        for v in net.native[2:]:
            tape.watch(v)
        loss = net.loss()
    yield tape.gradient(loss, net.weights), []


def watched_too_late(tape_class, net):
    with tape_class(watch_accessed_variables=False) as tape:
        loss = net.loss()
        tape.watch(net.native)
    yield tape.gradient(loss, net.weights), []


def a_frozen_bias_watched_by_hand(tape_class, net):
    net.last.bias.trainable = False
    with tape_class() as tape:
        tape.watch(net.last.bias.value)
        loss = net.loss()
    yield tape.gradient(loss, net.weights), [net.x]
