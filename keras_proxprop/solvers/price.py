"""What a step costs on the machine at hand, and what is cheapest there.

Prices are counted in multiply-adds of a matrix product that keeps float32's accuracy.
"""

import functools

import tensorflow as tf

from keras_proxprop import machine, replicas

# Operations of a layer's compiled step, one after the other: the explicit one, and what each
# form adds where products are in TF32, as `tests/citizen/test_compiled_steps.py` counts them.
_OPERATIONS = {"explicit": 3, "closed": 3, "memory": 8, "primal": 25, "dual": 25}
# Where the batch size is unknown at trace time: the batch sizes that a choice must suit, and
# the one that decides if the choice cannot be made at run time.
_BATCH_SIZES = (1, 8, 32, 64, 128, 512, 2048, 8192, 32768)
TYPICAL = 64


def backpropagation(rows, columns, count):
    """Returns the price of one layer's forward pass and two gradients."""
    products = machine.in_force().plain * 3.0 * count * rows.entries * columns
    return products + latency("explicit")


def right_side(rows, columns, count, split=1):
    """Returns what `AᵀD` costs beyond the explicit step's, which may keep less accuracy.

    An inverse amplifies what rounding adds to it.

    Args:
        rows, columns, count: as in `primal_and_dual`.
        split: how many operands are not to be rounded. Defaults to 1, as where τ is "auto".
    """
    more = (1 - machine.in_force().plain) / 2
    return split * more * count * rows.entries * columns


def latency(form):
    """Returns what a form of a step costs however small its layer is."""
    return _OPERATIONS[form] * machine.in_force().launch


def primal_and_dual(rows, columns, count):
    """Returns `{form: price}` of the exact step beyond the layer's backpropagation.

    Problems that split into many small ones are solved in primal form only.

    Args:
        rows: `Rows`.
        columns: number of output columns.
        count: number of rows, a number or a float tensor.
    """
    features = rows.features
    primal = factorized_gram(rows, count) + features**2 * columns
    primal += right_side(rows, columns, count) + latency("primal")
    if rows.groups > 1:
        return {"primal": primal}
    outer = count * rows.matrix_cost + count**2 * features
    factor = machine.in_force().inverse_factor(count)
    solve = factor + count**2 * min(columns, features)
    # In the last product, errors of `K⁻¹ D` are to cancel.
    last = right_side(rows, columns, count, split=2)
    return {"primal": primal, "dual": outer + solve + last + latency("dual")}


def factorized_gram(rows, count):
    """Returns the price of a Gram matrix, factorized."""
    factor = machine.in_force().inverse_factor(rows.features, rows.groups)
    return count * rows.gram_cost + factor


def closed(rows, columns):
    """Returns the price of a closed form, for `known_count` rows."""
    products = rows.closed_price * known_count(rows) * rows.entries * columns
    return machine.in_force().plain * products + latency("closed")


def typical_count(rows):
    """Returns the number of rows at a typical batch size."""
    return TYPICAL * rows.per_item


def known_count(rows):
    """Returns the number of rows. If it is unknown, it is that at a typical batch size."""
    count = rows.count
    return typical_count(rows) if tf.is_tensor(count) else count


def cheapest(rows, prices, batch_known=True):
    """Returns the name and the price of the branch that `run_cheapest` takes for
    `known_count` rows."""
    at_count = prices(known_count(rows))
    names = list(at_count) if batch_known else _candidates(rows, prices)
    return min(((name, at_count[name]) for name in names), key=lambda branch: branch[1])


def run_cheapest(rows, prices, run):
    """Runs the cheapest branch, for the rows of all replicas.

    Where the batch size is unknown and no branch is the cheapest at every batch size, the
    choice is made at run time, by the same prices.

    Args:
        rows: `Rows`.
        prices: function of a row count that returns `{name: price}`.
        run: function that runs the branch of a name.
    """
    count = rows.count
    known = not tf.is_tensor(count)
    if known:
        count = replicas.total_count(count)
    names = possible(rows, prices, count)
    if len(names) == 1:
        return run(names[0])
    if not known:
        # Counted only here, since replicas have to ask each other for it.
        count = replicas.total_count(count)
    at_count = prices(tf.cast(count, tf.float32))

    def choose(first, *others):
        if not others:
            return run(first)
        lowest = functools.reduce(tf.minimum, [at_count[name] for name in others])
        cheaper = at_count[first] <= lowest
        return replicas.cond(cheaper, lambda: run(first), lambda: choose(*others))

    return choose(*names)


def possible(rows, prices, count):
    """Returns the names of the branches of which `run_cheapest` takes one.

    Args:
        rows, prices: as in `run_cheapest`.
        count: number of rows of all replicas, or a tensor where it is not known.
    """
    if tf.is_tensor(count):
        return _candidates(rows, prices)
    at_count = prices(count)
    return [min(at_count, key=at_count.get)]


def _candidates(rows, prices):
    """Returns the names of the branches that are cheapest at some possible row count, or only
    one where no choice could save as much as it costs."""
    if not rows.choose_at_run_time:
        counts = [typical_count(rows)]
    else:
        counts = [batch * rows.per_item for batch in _BATCH_SIZES]
    found = [prices(count) for count in counts]
    lost = {name: max(at[name] - min(at.values()) for at in found) for name in found[0]}
    best = [min(at, key=at.get) for at in found]
    nearly = min(lost, key=lost.get)
    if lost[nearly] <= machine.in_force().choice:
        return [nearly]
    return [name for name in lost if name in best]
