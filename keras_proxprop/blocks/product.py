"""A layer's linear map, with the weights hidden from the tapes that record the layer."""

import tensorflow as tf

from keras_proxprop.hiding import hidden, recording_tapes
from keras_proxprop.keras_seams.custom_gradient import custom_gradient
from keras_proxprop.keras_seams.own_call import keras_mask, put_keras_mask


def product(linear, inputs, values, reads=()):
    """Returns `linear(inputs, *values)`, the values hidden from the tapes that record it.

    A gradient for the values is then exactly the part that reaches them by other ways. The
    gradient for the inputs is made with the values themselves, so that a gradient of that
    gradient reaches the values.

    Args:
        linear: function of the inputs and the values.
        inputs: tensor, or a nest of tensors (sparse ones, too) and other values.
        values: of the weights, tensors.
        reads: copies of the values, if a gradient for the copies is wanted: the part by way
            of this product alone, `AᵀD`.
    """
    recording = () if reads else recording_tapes()
    parts = tf.nest.flatten(inputs, expand_composites=True)
    # All else (ids, masks, flags, the places of a sparse tensor's entries) is constant.
    moving = [i for i, x in enumerate(parts) if tf.is_tensor(x) and x.dtype.is_floating]

    def given(tensors):
        replaced = dict(zip(moving, map(_masked_as, tensors, (parts[i] for i in moving))))
        flat = [replaced.get(i, x) for i, x in enumerate(parts)]
        return tf.nest.pack_sequence_as(inputs, flat, expand_composites=True)

    @custom_gradient
    def apart(*tensors):
        tensors, reads = tensors[: len(moving)], tensors[len(moving) :]

        def gradient(*d):
            sources = [*tensors, *values]
            if any(tape.asked for tape in recording):
                # The recording tapes need no `AᵀD`, which is for other tapes.
                sources = [*tensors]
            with tf.GradientTape() as tape:
                tape.watch(sources)
                z = linear(given(tensors), *values)
            gradients = tape.gradient(tf.nest.flatten(z), sources, list(d))
            return gradients + [None] * (len(tensors) + len(values) - len(sources))

        return linear(given(tensors), *reads), gradient

    return apart(*(parts[i] for i in moving), *(reads or hidden(values)))


def _masked_as(copy, tensor):
    """Gives a copy of a tensor the mask that Keras has put on the tensor; returns the copy."""
    mask = keras_mask(tensor)
    if mask is not None:
        put_keras_mask(copy, mask)
    return copy
