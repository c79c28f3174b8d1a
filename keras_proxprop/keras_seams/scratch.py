"""A model's forward pass in a graph that never runs."""

import concurrent.futures
import contextlib
import weakref

import keras
import tensorflow as tf

from keras_proxprop import replicas
from keras_proxprop.keras_seams.kinds import kind_of_call, spec_of
from keras_proxprop.keras_seams.layers import layers_of
from keras_proxprop.keras_seams.recording import Recorder

_known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_MOST_KEPT = 1000


def read_of_calls(recorder, calls, key, blocks, read, read_eagerly):
    """Returns what `read` makes of a `Recorder` whose tensors tell what they come from, a set.

    Eager tensors do not tell that. For them the model's calls are traced again, once for every
    `key` and every kind of call, and so they are under a strategy, where one graph holds all
    replicas. Under these the first call stands for all.

    Args:
        recorder: `Recorder` of a forward pass in which the model was called.
        calls: those of the recorder's `model_calls` that are asked about.
        key: key under which the result is kept for the model.
        blocks, read: as in `trace_call`.
        read_eagerly: function of the arguments of an eager call that cannot be traced.
    """
    alone = replicas.in_sync() == 1
    if recorder.graph is not None and alone:
        return read(recorder)
    known, found = _known.setdefault(recorder.model, {}), set()
    for args, kwargs, _ in calls if alone else calls[:1]:
        own = key, kind_of_call((args, kwargs))
        if own not in known:
            # Arguments may have another value in every step.
            if len(known) >= _MOST_KEPT:
                known.clear()
            given = recorder.model, blocks, args, kwargs, read
            try:
                known[own] = trace_call(*given) if alone else elsewhere(trace_call, *given)
            except Exception:
                if not alone:
                    raise
                # The call has run once: it needs the values of tensors.
                known[own] = read_eagerly(args, kwargs)
        found |= known[own]
    return found


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
        with undisturbed(model):
            recorder.start()
            try:
                model(*given[0], **given[1])
            finally:
                recorder.stop()
        found.append(read(recorder))

    # In eager execution, `tf.init_scope` would stop all tapes, the model's own ones, too.
    with contextlib.nullcontext() if tf.executing_eagerly() else tf.init_scope():
        tf.function(call, autograph=False).get_concrete_function()
    return found[0]


@contextlib.contextmanager
def undisturbed(model):
    """Context in which a call of a model leaves no traces in the model."""
    layers = layers_of(model)
    # A call clears the losses that the last one added; the user may not have read them.
    losses = [(layer, layer._losses[:]) for layer in layers]
    attributes = [(layer, dict(vars(layer))) for layer in layers]
    # What the forward pass would assign (statistics, seeds) stays in the scope.
    with keras.StatelessScope():
        try:
            yield
        finally:
            for layer, added in losses:
                layer._losses[:] = added
            for layer, before in attributes:
                _restore(layer, before)


def _restore(layer, before):
    """Undoes where a call has put tensors of a graph in attributes of a layer."""
    for name, value in list(vars(layer).items()):
        if value is not before.get(name) and _is_symbolic(value):
            if name in before:
                vars(layer)[name] = before[name]
            else:
                del vars(layer)[name]


def _is_symbolic(value):
    if isinstance(value, (list, tuple)):
        return any(map(_is_symbolic, value))
    if isinstance(value, dict):
        return any(map(_is_symbolic, value.values()))
    return tf.is_tensor(value) and tf.is_symbolic_tensor(value)
