"""A model's forward pass in a graph that never runs."""

import keras
import tensorflow as tf

from keras_proxprop.keras_seams.recording import Recorder


def scratch_recorder(model, blocks, args, kwargs):
    """Returns a `Recorder` of `model(*args, **kwargs)` in a graph that never runs."""
    graph = tf.__internal__.FuncGraph("proxprop_scratch")
    recorder = Recorder(model, blocks)

    def symbolic(x):
        if not tf.is_tensor(x) and not isinstance(x, tf.TensorSpec):
            return x
        return tf.compat.v1.placeholder(x.dtype, x.shape)

    # A call clears the losses that the last one added; the user may not have read them yet.
    losses = [(layer, layer._losses[:]) for layer in model._flatten_layers()]
    # What the forward pass would assign (statistics, seeds) stays in the scope.
    with graph.as_default(), keras.StatelessScope():
        args, kwargs = tf.nest.map_structure(symbolic, (args, kwargs))
        recorder.start()
        try:
            model(*args, **kwargs)
        finally:
            recorder.stop()
            for layer, added in losses:
                layer._losses[:] = added
    # The graph owns the tensors that the recorder holds.
    recorder.owner = graph
    return recorder
