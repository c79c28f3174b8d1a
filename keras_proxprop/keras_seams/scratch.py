"""A model's forward pass in a graph that never runs."""

import concurrent.futures
import contextlib
import weakref

import keras
import tensorflow as tf

from keras_proxprop import replicas
from keras_proxprop.keras_seams.layers import layers_of
from keras_proxprop.keras_seams.recording import Recorder, spec_of

_known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def read_of_call(recorder, key, blocks, read):
    """Returns what `read` makes of a `Recorder` whose tensors tell what they come from.

    Eager ones do not: the model's call is then traced again, once for every `key`. Under a
    strategy it is, too, as there a graph is of all replicas together.

    Args:
        recorder: `Recorder` of a forward pass in which the model was called.
        key: tells apart what is read of one model.
        blocks, read: as in `trace_call`.
    """
    alone = replicas.in_sync() == 1
    if recorder.graph is not None and alone:
        return read(recorder)
    known = _known.setdefault(recorder.model, {})
    if key not in known:
        args, kwargs, _ = recorder.model_calls[0]
        given = recorder.model, blocks, args, kwargs, read
        known[key] = trace_call(*given) if alone else elsewhere(trace_call, *given)
    return known[key]


def elsewhere(function, *args):
    """Calls a function in a thread of its own, which knows nothing of the graph that a step
    is traced in, nor of the replica."""
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *args).result()


def trace_call(model, blocks, args, kwargs, read):
    """Traces `model(*args, **kwargs)` and returns what `read` makes of its `Recorder`.

    Args:
        model: `keras.Model`.
        blocks: function of a layer that returns its block, or `None`.
        args, kwargs: of the call; tensors may be `tf.TypeSpec`s.
        read: function of the `Recorder`, called while its tensors' graph is there.
    """
    found = []

    def symbolic(x):
        kind = spec_of(x)
        if not isinstance(kind, tf.TypeSpec):
            return x
        if isinstance(kind, tf.SparseTensorSpec):
            # With a shape that is known wherever the tensor goes.
            places = tf.compat.v1.placeholder(tf.int64, [None, kind.shape.rank])
            values = tf.compat.v1.placeholder(kind.dtype, [None])
            return tf.SparseTensor(places, values, kind.shape)
        parts = tf.nest.flatten(kind, expand_composites=True)
        parts = [tf.compat.v1.placeholder(part.dtype, part.shape) for part in parts]
        return tf.nest.pack_sequence_as(kind, parts, expand_composites=True)

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

    # In a scope of TensorFlow's own for this no tape would see anything, the model's neither.
    with contextlib.nullcontext() if tf.executing_eagerly() else tf.init_scope():
        tf.function(call, autograph=False).get_concrete_function()
    return found[0]
