"""What a tape tells of an eager forward pass, where the model's call cannot be traced.

A call that asks for the values of tensors runs in no graph. It is run once more, and a tape
tells what the outputs depend on: less than a graph does, since it sees only what has a
gradient, and all that a model differentiates by itself counts as a part of its outputs.
"""

import contextlib

import tensorflow as tf

from keras_proxprop.keras_seams.layers import native
from keras_proxprop.keras_seams.recording import (
    Recorder,
    nothing_else_recorded,
    weighted_layer,
)
from keras_proxprop.keras_seams.scratch import undisturbed
from keras_proxprop.weights import variable_key, variable_of


class _Probe(tf.GradientTape):
    """A tape from which weights can be hidden, as from an `ImplicitGradientTape`."""

    asked = False

    def found(self, ends, sources):
        """Returns for every source whether a tensor of floats in `ends` depends on it."""
        ends = tf.nest.flatten(ends, expand_composites=True)
        ends = [t for t in ends if tf.is_tensor(t) and t.dtype.is_floating]
        self.asked = True
        return [part is not None for part in self.gradient(ends, sources)] if ends else []


class _Cutting(Recorder):
    """A recorder whose tape sees no layer with weights from within, only its outputs."""

    _within = 0

    def __init__(self, model, tape):
        super().__init__(model, lambda layer: None, tape)
        self._stopped = contextlib.ExitStack()

    def enter(self, layer):
        entered = super().enter(layer)
        if entered and weighted_layer(layer) is not None:
            if not self._within:
                self._stopped.enter_context(self.tape.stop_recording())
            self._within += 1
        return entered

    def leave(self, layer, args, kwargs, outputs):
        super().leave(layer, args, kwargs, outputs)
        if weighted_layer(layer) is not None:
            self._within -= 1
            if not self._within:
                self._stopped.close()
            for tensor in _floating(outputs):
                self.watch(tensor)


def final_layers_of_call(model, args, kwargs):
    """Returns the ids of the layers with no other between them and an output, by a tape."""
    with _Probe(watch_accessed_variables=False) as tape:
        recorder = _Cutting(model, tape)
        _run(recorder, args, kwargs)
    # A later layer that passes a tensor on unchanged does not take it over.
    owners = {}
    for layer, outputs in recorder.weighted:
        for tensor in _floating(outputs):
            owners.setdefault(id(tensor), (tensor, layer))
    tensors = [tensor for tensor, _ in owners.values()]
    outputs = [outputs for _, _, outputs in recorder.model_calls]
    found = zip(owners.values(), tape.found(outputs, tensors))
    return {id(layer) for (_, layer), reaches in found if reaches}


def reached_in_call(model, args, kwargs, weights, blocks):
    """Returns the keys of the weights that reach the outputs around the linear maps."""
    variables = {variable_key(w): native(variable_of(w)) for w in weights}
    with _Probe(watch_accessed_variables=False) as tape:
        tape.watch(list(variables.values()))
        recorder = Recorder(model, blocks, tape)
        _run(recorder, args, kwargs)
    # Whatever passes through a linear map passes through its inputs.
    ends = [outputs for _, _, outputs in recorder.model_calls]
    ends += [use.inputs for use in recorder.uses]
    found = zip(variables, tape.found(ends, list(variables.values())))
    return {key for key, reaches in found if reaches}


def _run(recorder, args, kwargs):
    with nothing_else_recorded(), undisturbed(recorder.model):
        recorder.start()
        try:
            recorder.model(*args, **kwargs)
        finally:
            recorder.stop()


def _floating(nest):
    flat = tf.nest.flatten(nest, expand_composites=True)
    return [t for t in flat if tf.is_tensor(t) and t.dtype.is_floating]
