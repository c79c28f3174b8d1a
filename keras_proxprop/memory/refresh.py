"""When averages of Gram matrices are made anew, and what is made then."""

import functools

import tensorflow as tf

from keras_proxprop import machine, replicas, xla
from keras_proxprop.memory.averages import averaged
from keras_proxprop.memory.inverses import inverses_of
from keras_proxprop.memory.stacks import in_stacks
from keras_proxprop.solvers.inverse_factor import is_large

# A refresh is due when the last one is longer ago than this part of all steps: a quarter.
PART = 4
# The most turns that matrices take: each is a branch of its own to trace and to keep.
TURNS = 4


def turns_of(prices, sizes):
    """Returns which matrices are refreshed together, as lists of their indices.

    Where the refreshes of all would make a step much longer than others, they take turns.
    Matrices of one size stay together as far as possible, since they are one stack.

    Args:
        prices: of every matrix the price of its refresh.
        sizes: of every matrix the number of its rows.
    """
    number = max(1, min(TURNS, int(sum(prices) / machine.in_force().at_once)))
    found, before = [[] for _ in range(number)], 0
    for i in sorted(range(len(prices)), key=lambda i: sizes[i]):
        # The part of the whole work in whose middle it is.
        middle = (before + prices[i] / 2) / sum(prices)
        found[min(number - 1, int(number * middle))].append(i)
        before += prices[i]
    return [sorted(turn) for turn in found if turn]


def refresh(states, turns, rows, step, tau, memory, finite):
    """Makes averages and inverses anew where a refresh is due, and assigns them to variables.

    In one step no more than one turn is refreshed, the one that waits longest. But while a
    refresh is due more often than a round of all turns takes, as in the first dozen steps, a
    step refreshes all that is due; and what is not there yet is made at once.

    Args:
        states: `AveragedGram`s.
        turns: lists of indices of `states`, which have each index once.
        rows: function that returns the `Rows` of the state of an index. It is called where
            a refresh is due.
        step: number of steps so far, an int64 tensor.
        tau: `Tau`.
        memory: `CurvatureMemory`.
        finite: function that returns whether all that the step is made of is finite, a
            boolean tensor. Otherwise nothing is assigned.

    Returns:
        For every state whether the inverse of a refresh in this step needed damping, a
        boolean tensor.
    """
    ages = step - tf.stack([tf.convert_to_tensor(state.refreshed) for state in states])
    allowed = tf.clip_by_value(step // PART, 1, memory.refresh_every)
    empty = tf.stack([tf.convert_to_tensor(state.weight) for state in states]) == 0
    # A smaller step count than before means that training has begun anew.
    due = _due(ages, (ages < 0) | empty, allowed, turns)
    # One trace for all sizes, with what halves large ones only if there are any.
    large = any(is_large(state.average.shape[-1]) for state in states)

    def renewed(turn, own_ages):
        own, mine = [rows(i) for i in turn], [states[i] for i in turn]
        grams = replicas.total_symmetric([each.gram() for each in own])
        counts = replicas.total_counts([each.count for each in own])
        counts = [tf.cast(count, tf.float64) for count in counts]
        passed = tf.cast(tf.maximum(own_ages, 1), tf.float64) / memory.refresh_every
        keep = tf.unstack(tf.constant(memory.decay, tf.float64) ** passed, len(turn))
        numbers = [count * replicas.parts() for count in counts]
        old = [state.sums() for state in mine]
        sums = in_stacks(averaged, list(zip(grams, counts, numbers, keep, *zip(*old))))
        inverses = inverses_of([each[:3] for each in sums], tau.tensor, large)
        for state, (*new, trace), (inverse, _) in zip(mine, sums, inverses):
            state.assign(*new, trace, inverse, step)
        return [damped for _, damped in inverses]

    def unchanged(turn):
        return [tf.constant(False) for _ in turn]

    def in_turns():
        now = due & replicas.every(finite())
        now = [tf.reduce_any(now)] if len(turns) == 1 else tf.unstack(now)
        found = {}
        for turn, condition in zip(turns, now):
            own_ages = tf.gather(ages, turn) if len(turns) > 1 else ages
            again = functools.partial(renewed, turn, own_ages)
            as_is = functools.partial(unchanged, turn)
            flags = replicas.cond(condition, again, as_is, assigns=True)
            found.update(zip(turn, flags))
        return [found[i] for i in range(len(states))]

    # The one decision of a step in which nothing is due.
    return replicas.cond(
        tf.reduce_any(due),
        lambda: xla.rarely(in_turns, assigns=True),
        lambda: unchanged(states),
        assigns=True,
    )


def _due(ages, at_once, allowed, turns):
    """Returns which turns are due, a vector; where there is one turn, which matrices are.

    Args:
        ages: steps since the last refresh of every matrix.
        at_once: which of them cannot wait.
        allowed: the age from which on a refresh is due.
        turns: as in `refresh`.
    """
    late = ages >= allowed
    if len(turns) == 1:
        return at_once | late
    # While a refresh is due nearly every step, to wait for one makes steps worse.
    at_once |= late & (allowed < len(turns))
    own = tf.constant([[i in turn for i in range(ages.shape[0])] for turn in turns])
    oldest = tf.reduce_max(tf.where(own, ages, ages.dtype.min), axis=1)
    first = tf.range(len(turns), dtype=tf.int64) == tf.argmax(oldest)
    return tf.reduce_any(own & at_once, axis=1) | (first & (oldest >= allowed))
