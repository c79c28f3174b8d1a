"""Which directions a tape made, noted on variables and tensors for a `ProxProp` to read.

A `ProxProp` takes only directions: with plain gradients it would train explicitly, and nobody
would notice. A graph shows what a tensor was made from. Outside of graphs, and where results
of one function are arguments of another, nothing shows it. There a variable takes any tensor
as long as a tape has made directions for the variable that nobody took yet.
"""

import collections
import dataclasses
import weakref

import tensorflow as tf

from keras_proxprop import replicas
from keras_proxprop.keras_seams.finite_step import all_finite, values_of
from keras_proxprop.keras_seams.layers import native


class _Note:
    """What is known of the directions that tapes made for one variable."""

    def __init__(self):
        # By replica, with what is known of the whole batch.
        self.sizes = {}
        # By replica: how many directions were made outside of graphs in the last round of
        # making and taking, and are not taken yet; and the replicas that have begun to take.
        self._left, self._taking = {}, set()
        # Graphs that made directions and took none. Their results cannot be recognized later.
        self._graphs = weakref.WeakSet()

    def made(self, direction, size, batch):
        graphs, replica = _graphs(), replicas.index()
        self.sizes[replica] = size, batch
        _notes(direction).append(self)
        self._graphs.update(graphs)
        if not graphs:
            if replica in self._taking:
                self._left[replica] = 0
            self._taking.discard(replica)
            self._left[replica] = self._left.get(replica, 0) + 1

    def takes(self, direction):
        """Returns whether a tape made what `direction` is made from."""
        if tf.is_tensor(direction) and tf.is_symbolic_tensor(direction):
            found, differentiated = _walk(direction, self)
            if found:
                self._graphs -= set(_graphs())
            return found or not differentiated and self._any_left()
        if _graphs():
            return self._any_left()
        known, replica = self in _notes(direction), replicas.index()
        left = self._left.get(replica, 0)
        if not known and not left:
            return bool(self._graphs)
        self._left[replica] = max(left - 1, 0)
        self._taking.add(replica)
        # The direction may be applied again.
        _notes(direction).append(self)
        return True

    def _any_left(self):
        return bool(self._graphs) or any(self._left.values())


def grant(variables, directions, sizes, finite, batch=None):
    """Notes that a tape made these directions.

    Args:
        variables: `tf.Variable`s.
        directions: a tensor, or `None`, for each.
        sizes: `{id of a variable: ProblemSize}`, of those that are in a problem.
        finite: whether all directions and the loss are finite, a boolean tensor.
        batch: what `shared_by_rows` yielded. Defaults to `None`: it was not asked.
    """
    for variable, direction in zip(variables, directions):
        if isinstance(variable, tf.Variable) and direction is not None:
            if not hasattr(variable, "_proxprop_note"):
                variable._proxprop_note = _Note()
            size = sizes.get(id(variable))
            variable._proxprop_note.made(values_of(direction), size, batch)
    note_finite(directions, finite)


def note_finite(directions, finite):
    """Notes whether all of a step is finite, a boolean tensor, on its directions."""
    for direction in directions:
        if direction is not None:
            values_of(direction)._proxprop_finite = finite


def check(directions, variables):
    """Raises an error for variables whose direction was not made by a tape."""
    plain = []
    for direction, variable in zip(directions, variables):
        note = getattr(native(variable), "_proxprop_note", _Note())
        if direction is not None and not note.takes(values_of(direction)):
            plain.append(getattr(variable, "path", variable.name))
    if plain:
        # A model may have hundreds of variables.
        more = f" and {len(plain) - 5} more" if len(plain) > 5 else ""
        raise RuntimeError(
            "ProxProp received plain gradients, with which it would take explicit steps "
            f"only, for {plain[:5]}{more}. In a train_step of your own, put "
            "`keras_proxprop.ImplicitGradientTape(model)` in the place of "
            "`tf.GradientTape()`, or call `super().train_step(data)`."
        )


def are_finite(directions):
    """Returns whether directions are finite, and the loss they come from where it is known."""
    directions = [d for d in directions if d is not None]
    noted = [getattr(values_of(d), "_proxprop_finite", None) for d in directions]
    if not noted or not all(flag is not None and _is_reachable(flag) for flag in noted):
        return all_finite(directions)
    flags = list({id(flag): flag for flag in noted}.values())
    return flags[0] if len(flags) == 1 else tf.reduce_all(tf.stack(flags))


def sizes_of(variables):
    """Returns the `ProblemSize` of each variable's last direction, `None` where there is none.

    The sizes count the rows of all replicas.
    """
    notes = [getattr(native(v), "_proxprop_note", _Note()) for v in variables]
    noted = [note.sizes.get(replicas.index(), (None, None)) for note in notes]
    sizes = [size for size, _ in noted]
    counts = [size and size.row_count for size in sizes]
    known = [count is not None and _is_reachable(count) for count in counts]
    counted = [size for size, is_known in zip(sizes, known) if is_known]
    totals = iter(_totals(counted, [batch for _, batch in noted if batch]))
    return [
        size and dataclasses.replace(size, row_count=next(totals) if is_known else None)
        for size, is_known in zip(sizes, known)
    ]


def _totals(sizes, batches):
    """Returns the numbers of rows of problems on all replicas."""

    def told():
        return replicas.total_counts([size.row_count for size in sizes])

    items, alike = next(iter(batches), (None, None))
    if alike is None or not _is_reachable(alike):
        return told()

    def by_items():
        return [items * size.per_item for size in sizes]

    return replicas.cond(alike, by_items, lambda: [tf.cast(n, tf.float32) for n in told()])


def _is_reachable(value):
    return not (tf.is_tensor(value) and hasattr(value, "graph")) or value.graph in _graphs()


def _walk(tensor, note):
    """Returns whether a tensor of a graph depends on a direction for the variable of `note`,
    and whether it depends on anything that a tape of TensorFlow made."""
    # The nearest first: a direction is a few operations away, and most of the step behind it.
    queue, seen, differentiated = collections.deque([tensor]), set(), False
    while queue:
        tensor = queue.popleft()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if note in _notes(tensor):
            return True, differentiated
        if tf.is_symbolic_tensor(tensor):
            differentiated |= made_by_a_tape(tensor)
            queue.extend(tensor.op.inputs)
            if not tensor.op.inputs:
                captures = getattr(tensor.graph, "captures", ())
                queue.extend(outer for outer, inner in captures if inner is tensor)
    return False, differentiated


def made_by_a_tape(tensor):
    """Returns whether a tensor of a graph is a part of some derivative."""
    # TensorFlow gives such names to all that a tape adds to a graph.
    return "gradient_tape/" in tensor.op.name


def _notes(tensor):
    """The notes on a tensor, or a new list where the tensor cannot hold any."""
    try:
        tensor._proxprop_notes = notes = getattr(tensor, "_proxprop_notes", [])
    except AttributeError:
        notes = []
    return notes


def _graphs():
    """The graph that is being traced and the graphs around it; empty outside of graphs."""
    graphs, graph = [], None
    if not tf.executing_eagerly():
        graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        graphs.append(graph)
        graph = getattr(graph, "outer_graph", None)
    return graphs
