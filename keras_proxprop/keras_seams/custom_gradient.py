"""`tf.custom_gradient`, without keeping for ever what the gradient is made of."""

import functools
import weakref

import tensorflow as tf

# TensorFlow has no public way to take a gradient out of its registry again.
from tensorflow.python.framework.ops import gradient_registry

# By the names under which TensorFlow has registered them.
_gradients: weakref.WeakValueDictionary = weakref.WeakValueDictionary()


def custom_gradient(function):
    """Returns what `tf.custom_gradient` makes of a function.

    In a graph TensorFlow registers every gradient function for good, and with it the graph and
    all that the function knows: the layer, its weights and their optimizer. Here it lives as
    long as the graph.
    """
    decorated = tf.custom_gradient(function)

    @functools.wraps(function)
    def call(*tensors):
        results = decorated(*tensors)
        first = tf.nest.flatten(results)[0]
        if tf.is_symbolic_tensor(first):
            _leave_to_graph(first.op)
        return results

    return call


def _leave_to_graph(operation):
    name = _name_of_gradient(operation)
    entry, graph = gradient_registry._registry[name], operation.graph
    gradient, entry["type"] = entry["type"], _registered
    _gradients[name] = gradient
    # The body of a loop may be made anew for its derivative, from the graph around it.
    for holder in (graph, *_functions_around(graph)):
        if not hasattr(holder, "_proxprop_gradients"):
            holder._proxprop_gradients = []
        holder._proxprop_gradients.append(gradient)


def _functions_around(graph):
    """Returns the graphs of functions around a graph. The outermost graph is TensorFlow's own,
    which stays."""
    around, graph = [], getattr(graph, "outer_graph", None)
    while graph is not None and graph.building_function:
        around.append(graph)
        graph = graph.outer_graph
    return around


def _registered(operation, *gradients):
    return _gradients[_name_of_gradient(operation)](operation, *gradients)


def _name_of_gradient(operation):
    return operation.get_attr("_gradient_op_type").decode()
