"""Averages of Gram matrices after one more batch, which may be one of outliers."""

import tensorflow as tf

from keras_proxprop import xla
from keras_proxprop.memory.stacks import axes_of_each, per_matrix
from keras_proxprop.rows.arrays import diagonals

# How many times the larger of two traces, that of the average and that of the batch at the
# last refresh, a batch's may be; a larger one is scaled down. In ordinary training it is less:
# at most 5.1 times, over the first 160 steps of six small nets (convolutions with and without
# batch normalization, from tiny weights, residual, residual from zeros; MLP) at a learning
# rate of 0.001, four of them at 0.01 too. Of the average alone it is up to 9.1 times.
_LIMIT = 10.0


@xla.traced_once
def averaged(gram, count, rows, keep, average, weight, number, last):
    """Returns the averages after a batch, `weight`, `number`, and the traces of the batch.

    Args:
        gram, count: stacks of `AᵀA`, and of the number of rows that it is made of.
        rows: those of the whole batch.
        keep: the share of the kept sums that is to be left.
        average, weight, number, last: stacks of what is in `AveragedGram`s.
    """
    gram /= per_matrix(tf.cast(count, gram.dtype), gram)
    # A batch whose Gram matrix overflows is left out, and so are batches of zeros before any
    # other: an inverse of nothing would be one over next to nothing.
    finite = tf.reduce_all(tf.math.is_finite(gram), axes_of_each(gram))
    new = tf.where(per_matrix(finite, gram), gram, tf.zeros_like(gram))
    trace = _trace(new)
    keep = tf.where(finite & (trace + weight > 0), keep, 1.0)
    batch = tf.where(finite, trace, last)
    average, new = _bounded(average, new, weight, last, 1 - keep)
    # Both in float64 first: what a batch weighs may be less than float32's unit.
    kept, share = (per_matrix(tf.cast(x, gram.dtype), gram) for x in (keep, 1 - keep))
    average = kept * average + share * new
    weight = keep * weight + (1 - keep)
    number = keep * number + (1 - keep) * rows
    return average, weight, number, batch


def _trace(grams):
    """Returns the traces of Gram matrices, the mean where there are groups, in float64."""
    traces = tf.reduce_sum(tf.cast(diagonals(grams), tf.float64), axis=-1)
    return tf.reduce_mean(traces, axes_of_each(traces))


def _bounded(average, new, weight, last, share):
    """Returns the sums `average` and a batch's Gram matrices, none out of all proportion.

    A batch of outliers would stay for as long as its scale takes to decay. So the batch is
    compared with the average and with the batch at the last refresh: where it is more than
    `_LIMIT` times as large as either, it is scaled down; a change of scale that lasts is taken
    over at the next refresh. Where the average is that much larger than both batches, it is
    scaled down: at once after a first batch of outliers, else by a tenth, in case it is these
    two that are out of proportion.

    Args:
        average: weighted sums of `AᵀA / R`, a stack.
        new: the batch's `AᵀA / R`, likewise.
        weight: sums of the weights in `average`.
        last: traces of the batch at the last refresh.
        share: the weight of the batch.
    """
    batch, mean = _trace(new), tf.math.divide_no_nan(_trace(average), weight)

    def limited(value, *others):
        """Returns by what to multiply traces so that they are in proportion to two others."""
        most = _LIMIT * tf.maximum(*others)
        # Nothing is out of proportion to nothing.
        return tf.where((value > most) & (most > 0), most / value, 1.0)

    # An average of two batches has one more, the first.
    least = tf.where(weight <= 2 * share, tf.zeros_like(share), 1 / _LIMIT)
    down = tf.maximum(limited(mean, batch, last), least)
    scaled = limited(batch, mean, last)
    down, scaled = (per_matrix(tf.cast(f, new.dtype), new) for f in (down, scaled))
    return down * average, scaled * new
