"""The momentum of `BatchNormalization` while the weights still move fast.

The moving statistics are averages over the last `1 / (1 - momentum)` steps, a hundred with
Keras's default. They fit the weights only where these moved little in that time. The first
steps are long: there the averages go over fewer steps.
"""

import contextlib
import threading

import keras
import tensorflow as tf

# The averages go over a step, and one more for so many steps that were made: over as many as
# `momentum` says from 30 × 99 steps on. `examples/batch_normalization.py` measures it.
STEPS_FOR_ONE = 30
_lock = threading.Lock()
# `{id of a layer: [number of its calls under way, its own momentum]}`.
_calls: dict = {}


@contextlib.contextmanager
def keeping_up(layer, inputs, iterations):
    """Context in which the moving statistics of a `BatchNormalization` keep up with weights.

    Args:
        layer: the layer; any other where `iterations` is `None`.
        inputs: what it is called with, a tensor.
        iterations: number of steps so far, a scalar tensor, or `None`: nothing changes.
    """
    if iterations is None:
        yield
        return
    _enter(layer, inputs, iterations)
    try:
        yield
    finally:
        _leave(layer)


def _enter(layer, inputs, iterations):
    # Replicas call a layer one within the other where they meet in the call.
    with _lock:
        call = _calls.setdefault(id(layer), [0, layer.momentum])
        call[0] += 1
        if call[0] == 1:
            # As the layer casts what it is given.
            dtype = keras.backend.standardize_dtype(inputs.dtype)
            steps = tf.cast(iterations, keras.backend.result_type(dtype, "float32"))
            momentum = tf.minimum(steps / (steps + STEPS_FOR_ONE), call[1])
            # Not by Keras's own __setattr__, which would track a tensor.
            object.__setattr__(layer, "momentum", momentum)


def _leave(layer):
    with _lock:
        call = _calls[id(layer)]
        call[0] -= 1
        if not call[0]:
            object.__setattr__(layer, "momentum", _calls.pop(id(layer))[1])
