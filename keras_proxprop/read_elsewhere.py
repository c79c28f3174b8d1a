"""Weights that a model reads outside of their layer's linear map, in a tied decoder say."""

import weakref

import tensorflow as tf

from keras_proxprop import replicas
from keras_proxprop.keras_seams.layers import native
from keras_proxprop.keras_seams.provenance import made_by_a_tape
from keras_proxprop.keras_seams.scratch import trace_call
from keras_proxprop.weights import variable_key, variable_of

_known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def read_elsewhere(recorder, weights, blocks):
    """Returns the keys of the variables that a model's outputs depend on past linear maps.

    A regularizer reads a weight, too, and is no part of the outputs.

    Args:
        recorder: `Recorder` of a forward pass.
        weights: weights of blocks that were recorded.
        blocks: function of a layer that returns its block, or `None`.
    """
    if not weights or not recorder.model_calls or replicas.in_sync() > 1:
        return set()
    if recorder.graph is not None:
        return _reached(recorder, weights)
    # Eager tensors do not tell what they come from.
    known = _known.setdefault(recorder.model, {})
    key = tuple(sorted(map(variable_key, weights)))
    if key not in known:
        args, kwargs, _ = recorder.model_calls[0]
        known[key] = trace_call(
            recorder.model, blocks, args, kwargs, lambda traced: _reached(traced, weights)
        )
    return known[key]


def _reached(recorder, weights):
    variables = {variable_key(w): native(variable_of(w)) for w in weights}
    # What a linear map is made of is an end of its own: beyond are the map's outputs.
    ends = [outputs for _, _, outputs in recorder.model_calls]
    ends += [use.inputs for use in recorder.uses]
    ends = tf.nest.flatten(ends, expand_composites=True)
    ends = [t for t in ends if tf.is_tensor(t) and t.dtype.is_floating]
    passed = [use.z for use in recorder.uses]
    # A derivative that the model makes of itself is no use of its own.
    for operation in recorder.graph.get_operations():
        passed += [t for t in operation.outputs if made_by_a_tape(t)]
    found = tf.gradients(ends, list(variables.values()), stop_gradients=passed)
    return {key for key, part in zip(variables, found) if part is not None}
