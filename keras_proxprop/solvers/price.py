"""What a step costs, counted in multiply-adds of a matrix product."""

import functools

import tensorflow as tf

from keras_proxprop import xla

# Measured on two cores against a matrix product's multiply-adds: the inverse of a Cholesky
# factor takes as long as so many n³.
_FACTORIZE = 4
# Batch sizes that a choice must suit where the batch size is unknown at trace time, and the
# one that decides where it cannot be made at run time.
_BATCH_SIZES = (8, 32, 64, 128, 512, 2048, 8192, 32768)
_TYPICAL = _BATCH_SIZES.index(64)


def backpropagation(rows, columns, count):
    """Returns the multiply-adds of one layer's forward pass and two gradients."""
    return 3.0 * count * rows.features * columns


def exact(rows, columns, count):
    """Returns `{form: cost}` of the exact step beyond the layer's backpropagation.

    Problems that split into many small ones are solved in primal form only.

    Args:
        rows: `Rows`.
        columns: number of output columns.
        count: number of rows, a number or a float tensor.
    """
    features = rows.features
    primal = factorized_gram(rows, count) + features**2 * columns
    if rows.groups > 1:
        return {"primal": primal}
    outer = count * rows.matrix_cost + count**2 * features
    return {"primal": primal, "dual": outer + _solve(count, min(columns, features))}


def factorized_gram(rows, count):
    """Returns the cost of a Gram matrix, factorized."""
    return count * rows.gram_cost + rows.groups * _FACTORIZE * rows.features**3


def closed_form(rows, columns):
    """Returns `(form, cost)` of rows that have a closed form."""
    return "closed", rows.closed_cost * rows.count * rows.features * columns


def typical_count(rows):
    """Returns the number of rows at a typical batch size."""
    return _BATCH_SIZES[_TYPICAL] * rows.per_item


def possible_counts(rows):
    """Returns the row counts that a choice must suit: one where the count is static."""
    if not tf.is_tensor(rows.count):
        return [rows.count]
    return [batch * rows.per_item for batch in _BATCH_SIZES]


def cheapest(rows, costs, branches):
    """Runs the cheapest branch.

    Where the batch size is unknown and no branch is the cheapest at every one, the choice
    is made at run time, by the same count. Under XLA shapes are known when it compiles, and
    only the chosen branch is xla. Rows that run slower inside of control flow take
    what is cheapest at a typical batch size.

    Args:
        rows: `Rows`.
        costs: function of a row count that returns `{name: cost}`.
        branches: `{name: function}`.
    """
    best = [min(prices, key=prices.get) for prices in map(costs, possible_counts(rows))]
    if len(set(best)) == 1:
        return branches[best[0]]()
    if not rows.choose_at_run_time:
        return branches[best[_TYPICAL]]()
    names = [name for name in branches if name in best]
    prices = costs(tf.cast(rows.count, tf.float32))

    def choose(first, *others):
        if not others:
            return branches[first]()
        lowest = functools.reduce(tf.minimum, [prices[name] for name in others])
        return xla.cond_on_sizes(
            prices[first] <= lowest, branches[first], lambda: choose(*others)
        )

    return choose(*names)


def _solve(n, columns):
    return _FACTORIZE * n**3 + n**2 * columns
