"""How long the first step of a weight is, by the size of its problem."""

import math

import numpy as np
import tensorflow as tf

from keras_proxprop.rows.arrays import key_of_size

# What the learning rate is multiplied by, for steps in units of the weights' first size: at
# 0.001 the first step changes a layer's preactivations by about a fifth.
_UNITS = 210.0
# The number of labels for which that holds, how it grows with them, and the limits of that.
_LABELS = 64
EXPONENT = 1 / 4
_SHORTEST, _LONGEST = 1 / 2, 4.0
# In wider problems than this the change of a preactivation would grow as the root of the
# number of features: so many weights are moved the same way. Not so in a convolution before
# a batch normalization, which takes out again what all positions have in common.
FEATURES = 64
# Where more layers step than this, each moves what the next ones get. Changes that are
# normalized add up as noise does, and in more runs than these no further.
DEPTH = 4
RUNS = 16
# Rows of an embedding count as at least so long: they begin far smaller than what layers
# after them are made for.
ROW = 0.5


def first_steps(first, sizes, variables, depth, batches):
    """Returns by what the learning rate is multiplied for every variable, a vector.

    Args:
        first: root mean squares of the variables when the optimizer was built, a vector.
        sizes: `ProblemSize` of each.
        variables: list of variables.
        depth: the model's, where a size does not tell it.
        batches: number of batches whose directions make one step.
    """
    glorot = [math.sqrt(2 / (size.features + size.columns)) for size in sizes]
    # Outputs that are normalized do not tell how large the weights are.
    most = [math.inf if s.is_normalized else one for s, one in zip(sizes, glorot)]
    own = tf.where(first > 0, tf.minimum(first, most), glorot)
    if any(size.lookup for size in sizes):
        present = zip(sizes, variables)
        present = [_of_embedding(v) if size.lookup else 0.0 for size, v in present]
        own = tf.maximum(own, tf.stack(present))
    return own * [_share(size, depth) for size in sizes] * _of_labels(sizes, batches)


def _of_embedding(variable):
    """Returns the present size of an embedding, that of rows of `ROW` where it is smaller."""
    return tf.maximum(root_mean_square(variable), ROW / math.sqrt(variable.shape[-1]))


def _share(size, depth):
    share = _UNITS * min(1.0, DEPTH / _depth(size, depth))
    if size.implicit and not (size.lookup or (size.of_images and size.is_normalized)):
        share *= min(1.0, math.sqrt(FEATURES / size.features))
    return share


def _depth(size, depth):
    """Returns how many maps one after the other the linear maps count as."""
    depth = size.depth or depth
    if size.normalized:
        as_noise = math.sqrt(DEPTH * min(size.runs, RUNS)) * size.normalized / size.runs
        depth += min(size.normalized, as_noise) - size.normalized
    return depth


def _of_labels(sizes, batches):
    """Returns by what the learning rate is multiplied for a batch's number of labels."""
    # A row of an embedding sees only the labels of those items that look it up.
    known = [size.row_count is not None and not size.lookup for size in sizes]
    finals = [size for size, is_known in zip(sizes, known) if is_known and size.final]
    finals = {(key_of_size(size.row_count), size.per_item): size for size in finals}
    of_finals = [(size.row_count, size.labels / size.per_item) for size in finals.values()]
    if len(of_finals) > 1:
        labels = [tf.cast(count, tf.float32) * share for count, share in of_finals]
        of_finals = [(tf.reduce_max(tf.stack(labels)), 1.0)]
    counts, shares = [], []
    for size, is_known in zip(sizes, known):
        # A layer's own rows tell only without a last layer: they are more than labels for
        # normalizations, and for sequences whose length is not known.
        own = (size.row_count, size.labels / size.per_item) if is_known else (_LABELS, 1.0)
        count, share = of_finals[0] if is_known and of_finals else own
        counts.append(count)
        shares.append(share * batches if is_known else share)
    # All layers at once, and every number of rows once.
    keys = list(map(key_of_size, counts))
    unique = dict(zip(keys, counts))
    places = [list(unique).index(key) for key in keys]
    rows = tf.stack([tf.cast(count, tf.float32) for count in unique.values()])
    labels = tf.gather(rows, places) * (np.float32(shares) / _LABELS)
    return tf.clip_by_value(labels**EXPONENT, _SHORTEST, _LONGEST)


def first_size(variable):
    """Returns the size of a variable as a number, 0 where it has no value yet."""
    with tf.init_scope():
        if not tf.executing_eagerly():
            return 0.0
        # Without an operation of TensorFlow for each part of the formula.
        values = tf.convert_to_tensor(variable).numpy().astype("float32")
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0


def root_mean_square(values):
    values = tf.cast(tf.convert_to_tensor(values), tf.float32)
    return tf.sqrt(tf.nn.l2_loss(values) * (2 / max(1, values.shape.num_elements())))
