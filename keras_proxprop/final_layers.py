"""Which layers of a model are final, found in the graph of one forward pass."""

import tensorflow as tf

from keras_proxprop.keras_seams.eager_walk import final_layers_of_call
from keras_proxprop.keras_seams.provenance import made_by_a_tape
from keras_proxprop.keras_seams.scratch import read_of_calls


def final_layers(recorder, target):
    """Returns the ids of the layers with no other weighted layer between them and an output.

    Args:
        recorder: `Recorder` of a forward pass.
        target: the loss. It takes the place of the model's outputs where the model as a
            whole was not called.
    """
    if recorder.graph is not None:
        outputs = [outputs for _, _, outputs in recorder.model_calls]
        return _walk(outputs or target, recorder.weighted)
    if not recorder.model_calls:
        raise ValueError(
            "final_layer='explicit' asks for the final layers, and they cannot be found: the "
            "model was not called inside the tape, and eager tensors do not tell what they "
            "come from. Call the model as a whole inside the tape, wrap the step in a "
            "`tf.function`, or pass final_layer='implicit'."
        )
    key = final_layers, *(id(layer) for layer, _ in recorder.weighted)
    return read_of_calls(
        recorder,
        recorder.model_calls,
        key,
        lambda layer: None,
        lambda traced: final_layers(traced, None),
        lambda args, kwargs: final_layers_of_call(recorder.model, args, kwargs),
    )


def _walk(outputs, weighted):
    owner = {}
    for layer, tensors in weighted:
        for tensor in _tensors(tensors):
            # A later layer that passes a tensor on unchanged does not take it over.
            owner.setdefault(id(tensor), layer)
    final, seen = set(), set()
    queue = _tensors(outputs)
    while queue:
        tensor = queue.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if id(tensor) in owner:
            final.add(id(owner[id(tensor)]))
        # A derivative inside of a model depends on all its layers, and makes none final.
        elif not made_by_a_tape(tensor):
            queue.extend(tensor.op.inputs)
    return final


def _tensors(nest):
    return [t for t in tf.nest.flatten(nest, expand_composites=True) if tf.is_tensor(t)]
