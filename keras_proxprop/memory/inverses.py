"""The inverses of averaged Gram matrices, which replicas make for one another."""

import tensorflow as tf

from keras_proxprop import replicas, xla
from keras_proxprop.memory.stacks import axes_of_each, in_stacks, per_matrix
from keras_proxprop.rows.arrays import diagonals
from keras_proxprop.solvers.factorization import floored_inverse
from keras_proxprop.tau import Tau


def inverses_of(averages, tau, large):
    """Returns for every average `(R Ḡ + I/τ)⁻¹`, and whether this inverse was damped.

    Replicas have the same averages. Each inverts some of them for all: an inverse takes longer
    than to send its upper triangle, as the table in `docs/distribution.md` says.

    Args:
        averages: `average`, `weight` and `rows` of every `AveragedGram`.
        tau: as in `Tau`.
        large: as in `inverse_factor`.
    """

    def made(chosen):
        def inverse(average, *sums):
            return _inverse(average, *sums, tau, large)

        return in_stacks(inverse, chosen)

    if replicas.in_sync() == 1:
        return made(averages)
    matrices = [average for average, *_ in averages]
    costs = [matrix.shape.num_elements() * matrix.shape[-1] for matrix in matrices]
    places = owners(costs, replicas.in_sync())
    own = [i for i, place in enumerate(places) if place == replicas.index()]
    found = [(tf.zeros_like(matrix), False) for matrix in matrices]
    for i, new in zip(own, made([averages[i] for i in own])):
        found[i] = new
    inverses = replicas.total_symmetric([inverse for inverse, _ in found])
    damped = tf.stack([tf.cast(flag, tf.int32) for _, flag in found])
    return list(zip(inverses, tf.unstack(replicas.total(damped) > 0)))


@xla.traced_once
def _inverse(average, weight, rows, tau, large):
    # R Ḡ: both sums are over the same weights.
    scale = tf.math.divide_no_nan(rows, weight**2)
    whole = per_matrix(tf.cast(scale, average.dtype), average) * average
    # Of the average: that of its own rows would differ from replica to replica.
    entries = diagonals(whole)
    curvature = tf.reduce_mean(entries, axes_of_each(entries))
    shift = Tau(tau).shift_at(curvature, whole.dtype)
    inverse, damped = floored_inverse(whole, per_matrix(shift, entries), large)
    return inverse, tf.reduce_any(damped, axes_of_each(damped))


def owners(costs, number):
    """Returns which of `number` replicas does each task. Tasks are given away from the most
    expensive one on, each to the replica with the least work so far.

    Args:
        costs: what each costs.
    """
    found, work = [0] * len(costs), [0] * number
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        found[i] = work.index(min(work))
        work[found[i]] += costs[i]
    return found
