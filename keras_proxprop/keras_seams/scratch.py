"""A model's forward pass in a graph that never runs."""

import keras
import tensorflow as tf

from keras_proxprop.keras_seams.layers import layers_of
from keras_proxprop.keras_seams.recording import Recorder


def trace_call(model, blocks, args, kwargs, read):
    """Traces `model(*args, **kwargs)` and returns what `read` makes of its `Recorder`.

    Args:
        model: `keras.Model`.
        blocks: function of a layer that returns its block, or `None`.
        args, kwargs: of the call; tensors may be `tf.TensorSpec`s.
        read: function of the `Recorder`, called while its tensors' graph is there.
    """
    found = []

    def symbolic(x):
        if not tf.is_tensor(x) and not isinstance(x, tf.TensorSpec):
            return x
        return tf.compat.v1.placeholder(x.dtype, x.shape)

    def call():
        recorder = Recorder(model, blocks)
        given = tf.nest.map_structure(symbolic, (args, kwargs))
        # A call clears the losses that the last one added; the user may not have read them.
        losses = [(layer, layer._losses[:]) for layer in layers_of(model)]
        # What the forward pass would assign (statistics, seeds) stays in the scope.
        with keras.StatelessScope():
            recorder.start()
            try:
                model(*given[0], **given[1])
            finally:
                recorder.stop()
                for layer, added in losses:
                    layer._losses[:] = added
        found.append(read(recorder))

    with tf.init_scope():
        tf.function(call, autograph=False).get_concrete_function()
    return found[0]
