"""Weights that a model reads outside of their layer's linear map, as a tied decoder does."""

import tensorflow as tf

from keras_proxprop.keras_seams.eager_walk import reached_in_call
from keras_proxprop.keras_seams.layers import native
from keras_proxprop.keras_seams.provenance import made_by_a_tape
from keras_proxprop.keras_seams.scratch import read_of_calls
from keras_proxprop.weights import variable_key, variable_of


def read_elsewhere(recorder, weights, blocks):
    """Returns the keys of the variables that reach a model's outputs around the linear maps.

    A regularizer reads a weight, too, but it is no part of the outputs.

    Args:
        recorder: `Recorder` of a forward pass.
        weights: weights of blocks that were recorded.
        blocks: function of a layer that returns its block, or `None`.
    """
    if not weights or not recorder.model_calls:
        return set()
    key = read_elsewhere, *sorted(map(variable_key, weights))
    return read_of_calls(
        recorder,
        _calls(recorder),
        key,
        blocks,
        lambda traced: _reached(traced, weights),
        lambda args, kwargs: reached_in_call(recorder.model, args, kwargs, weights, blocks),
    )


def _calls(recorder):
    # A call that no layer is noted in is another part of the loss, as a regularizer is.
    others = list(map(id, recorder.other_calls))
    return [call for call in recorder.model_calls if id(call) not in others]


def _reached(recorder, weights):
    variables = {variable_key(w): native(variable_of(w)) for w in weights}
    # The search stops at every `z`, so it starts from the inputs of linear maps, too.
    ends = [outputs for _, _, outputs in _calls(recorder)]
    ends += [use.inputs for use in recorder.uses]
    ends = tf.nest.flatten(ends, expand_composites=True)
    ends = [t for t in ends if tf.is_tensor(t) and t.dtype.is_floating]
    passed = [use.z for use in recorder.uses]
    # A derivative that the model takes of itself does not count as another use.
    for operation in recorder.graph.get_operations():
        passed += [t for t in operation.outputs if made_by_a_tape(t)]
    found = tf.gradients(ends, list(variables.values()), stop_gradients=passed)
    return {key for key, part in zip(variables, found) if part is not None}
