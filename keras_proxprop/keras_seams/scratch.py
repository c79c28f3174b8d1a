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

    Eager tensors do not tell that. For them the model's call is traced again, once for every
    `key`, and so it is under a strategy, where one graph holds all replicas.

    Args:
        recorder: `Recorder` of a forward pass in which the model was called.
        key: key under which the result is kept for the model.
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
    """Calls a function in a thread of its own, which knows neither the graph in which a step
    is traced, nor the replica."""
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *args).result()


def trace_call(model, blocks, args, kwargs, read):
    """Traces `model(*args, **kwargs)` and returns what `read` makes of its `Recorder`.

    Args:
        model: `keras.Model`.
        blocks: function of a layer that returns its block, or `None`.
        args, kwargs: arguments of the call, with `tf.TypeSpec`s for tensors if need be.
        read: function of the `Recorder`, called while the graph of its tensors exists.
    """
    found = []

    def symbolic(x):
        kind = spec_of(x)
        if not isinstance(kind, tf.TypeSpec):
            return x
        if isinstance(kind, tf.SparseTensorSpec):
            # Made from its parts, so that its static shape is known everywhere.
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

    # In eager execution, `tf.init_scope` would stop all tapes, the model's own ones, too.
    with contextlib.nullcontext() if tf.executing_eagerly() else tf.init_scope():
        tf.function(call, autograph=False).get_concrete_function()
    return found[0]
