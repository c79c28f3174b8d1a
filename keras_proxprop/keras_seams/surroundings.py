"""What surrounds a layer's call, where its tensors are not those of the step."""

import sys

# These have no public name.
from keras.src.backend.common.stateless_scope import get_stateless_scope
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager.forwardprop_util import pack_tangents

from keras_proxprop.keras_seams.layers import layers_of
from keras_proxprop.keras_seams.own_call import OwnScope


def loops_around(graph):
    """Returns how many calls of `tf.vectorized_map` are making their body in this graph.

    They make the body in the graph around it, and use none of its tensors afterwards.
    """
    # TensorFlow makes every body in such a name scope, which is cheaper to ask.
    if graph is None or "loop_body" not in graph.get_name_scope():
        return 0
    count, frame = 0, sys._getframe()
    while frame is not None:
        count += frame.f_code.co_name == "_pfor_impl"
        frame = frame.f_back
    return count


def accumulators_around():
    """Returns how many `tf.autodiff.ForwardAccumulator`s are active in this thread.

    TensorFlow records what they compute on tapes around them only, and not through weights
    that are hidden.
    """
    return len(pack_tangents([]).indices)


def recording_is_stopped():
    """Returns whether tapes record nothing here, as in what `keras.remat` runs again."""
    return pywrap_tfe.TFE_Py_TapeSetIsStopped()


def has_other_values(layer):
    """Returns whether the user's `keras.StatelessScope` has other values for the weights of a
    layer, as `stateless_call` has."""
    scope = get_stateless_scope()
    if scope is None or isinstance(scope, OwnScope):
        return False
    weights = [v for inner in layers_of(layer) for v in inner._trainable_variables]
    return any(scope.get_current_value(weight) is not None for weight in weights)
