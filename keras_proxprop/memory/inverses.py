"""The inverses of averaged Gram matrices, which replicas make for one another."""

import tensorflow as tf

from keras_proxprop import replicas, xla
from keras_proxprop.solvers.factorization import floored_inverse
from keras_proxprop.tau import Tau


def inverses_of(averages, tau):
    """Returns of every average its `(R Ḡ + I/τ)⁻¹`, and whether it was damped.

    Replicas have the same averages. Each inverts some of them for all: an inverse takes longer
    than to send its upper triangle, as the table in `docs/distribution.md` says.

    Args:
        averages: `average`, `weight` and `rows` of every `AveragedGram`.
        tau: as in `Tau`.
    """

    def made(average, *sums):
        inverse, damped = _inverse(average, *sums, tau)
        inverse.set_shape(average.shape)
        return inverse, damped

    if replicas.in_sync() == 1:
        return [made(*each) for each in averages]
    matrices = [average for average, *_ in averages]
    costs = [matrix.shape.num_elements() * matrix.shape[-1] for matrix in matrices]
    places = owners(costs, replicas.in_sync())
    found = [
        made(*each) if place == replicas.index() else (tf.zeros_like(each[0]), False)
        for each, place in zip(averages, places)
    ]
    inverses = replicas.total_symmetric([inverse for inverse, _ in found])
    damped = tf.stack([tf.cast(flag, tf.int32) for _, flag in found])
    return list(zip(inverses, tf.unstack(replicas.total(damped) > 0)))


@xla.traced_once
def _inverse(average, weight, rows, tau):
    # R Ḡ: both sums are over the same weights.
    scale = tf.math.divide_no_nan(rows, weight**2)
    whole = tf.cast(scale, average.dtype) * average
    # Of the average: that of its own rows would differ from replica to replica.
    curvature = tf.reduce_mean(tf.linalg.diag_part(whole))
    return floored_inverse(whole, 1 / Tau(tau).at(curvature, whole.dtype))


def owners(costs, number):
    """Returns which of `number` replicas does each of several tasks, the dearest given away
    first, each to who has least to do until then.

    Args:
        costs: what each costs.
    """
    found, work = [0] * len(costs), [0] * number
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        found[i] = work.index(min(work))
        work[found[i]] += costs[i]
    return found
