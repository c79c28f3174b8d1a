"""What a tape notes on the variables whose directions it made, for a `ProxProp` to read."""

import weakref

import tensorflow as tf

from keras_proxprop.weights import native


def grant(variables, counts):
    """Notes on every variable that a direction for it is ready for a `ProxProp` to take.

    A `ProxProp` takes nothing else: plain gradients would train explicitly, in silence.

    Args:
        variables: `tf.Variable`s.
        counts: `{id of a variable: rows of its problem}`, of those that have one.
    """
    for variable in variables:
        if isinstance(variable, tf.Variable):
            # Every replica of a strategy applies the directions once.
            variable._proxprop_ready = _replicas(), _outermost_graph()
            variable._proxprop_rows = counts.get(id(variable))


def rows_of(variables):
    """Returns from how many rows, of all replicas, each variable's last direction was made.

    Returns:
        List of ints and scalar tensors; `None` for a gradient, and for a number that is
        known only in a graph that is not this one.
    """
    rows = [getattr(native(v), "_proxprop_rows", None) for v in variables]
    rows = [count if _is_reachable(count) else None for count in rows]
    known = [tf.cast(count, "int32") for count in rows if count is not None]
    if _replicas() == 1 or not known:
        return rows
    total = tf.distribute.get_replica_context().all_reduce("sum", tf.stack(known))
    totals = iter(tf.unstack(total))
    return [None if count is None else next(totals) for count in rows]


def _replicas():
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context else 1


def _is_reachable(value):
    if not tf.is_tensor(value) or not hasattr(value, "graph"):
        return True
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    while graph is not None and graph is not value.graph:
        graph = getattr(graph, "outer_graph", None)
    return graph is not None


def claim(variables):
    """Returns those of `variables` that no tape made a direction for since the last claim."""
    plain = []
    for variable in variables:
        noted = native(variable)
        left, graph = getattr(noted, "_proxprop_ready", (0, None))
        # What was made outside a graph does not let its training step through for good.
        if left and graph == _outermost_graph():
            noted._proxprop_ready = left - 1, graph
        else:
            plain.append(variable)
    return plain


def _outermost_graph():
    """Returns a weak reference to the graph that is being traced, `None` outside of one."""
    if tf.executing_eagerly():
        return None
    graph = tf.compat.v1.get_default_graph()
    while (
        getattr(graph, "outer_graph", None) is not None and graph.outer_graph.building_function
    ):
        graph = graph.outer_graph
    return weakref.ref(graph)
