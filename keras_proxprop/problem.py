"""The least-squares problems of one step: which rows, which `D`, whose weights."""

import dataclasses

import tensorflow as tf

from keras_proxprop import replicas, solution
from keras_proxprop.optimizers.problem_size import ProblemSize
from keras_proxprop.rows.one_hot import OneHotRows
from keras_proxprop.rows.stacked import stack

FINAL = "final layer"


@dataclasses.dataclass(frozen=True)
class Member:
    """A linear map of a layer: its recorded uses, and the weights to find directions for.

    Attributes:
        block: `Block`.
        uses: its `Use`s.
        weights: some of the block's weights.
        why: why it steps explicitly; `None` where it steps implicitly.
        normalized: whether its outputs go into a `BatchNormalization`. Defaults to `False`.
        run: how many of these were called before it, `None` (default) where none is after it.
    """

    block: object
    uses: tuple
    weights: tuple
    why: str | None = None
    normalized: bool = False
    run: int | None = None

    @property
    def rows_key(self):
        """A key, equal for layers whose rows are made in the same way of the same tensors."""
        inputs = tuple(id(use.inputs) for use in self.uses)
        return self.block.row_key, len(self.weights), inputs

    def size(self, weight, rows, count, of_step):
        """Returns the `ProblemSize` of one of the weights.

        Args:
            weight: one of `weights`.
            rows: `Rows` of the weight's problem.
            count: their number.
            of_step: what `sizes_of_step` returned.
        """
        shape = self.block.matrix_shape(weight, rows)
        lookup = isinstance(rows, OneHotRows)
        implicit = self.why is None
        final = self.why == FINAL
        size = count, rows.per_item, *shape, implicit, lookup
        # An `EinsumDense` with a kernel of so many axes counts as a convolution.
        of_images = len(self.weights[0].shape) > 2
        own = {"final": final, "of_images": of_images, "is_normalized": self.normalized}
        return ProblemSize(*size, **own, **of_step)


class Problem:
    """Layers that read the same inputs: one matrix `A`, with a column for every output.

    A layer that was called several times is one problem with its rows stacked; layers
    that were called on the same tensors share the Gram matrix and its factor.

    Args:
        members: `Member`s with equal `rows_key`.
    """

    def __init__(self, members):
        self.members = members

    @classmethod
    def group(cls, members):
        """Returns the problems of those of `members` that step implicitly."""
        groups = {}
        for member in members:
            if member.why is None:
                groups.setdefault(member.rows_key, []).append(member)
        return [cls(group) for group in groups.values()]

    @classmethod
    def of_step(cls, members, d=None):
        """Returns two lists of `(problem, rows)`: of implicit steps, and of explicit ones.

        Args:
            members: `Member`s.
            d: `{id of a z: ∂L/∂z}`. Rows are made after these. Defaults to `None`.
        """
        explicit = [cls([member]) for member in members if member.why is not None]
        both = cls.group(members), explicit

        def rows(problem):
            zs = [use.z for member in problem.members for use in member.uses]
            return problem.rows([] if d is None else [d[id(z)] for z in zs])

        return [[(problem, rows(problem)) for problem in problems] for problems in both]

    def rows(self, after=()):
        """Returns the problem's `Rows`, in float32 or float64.

        Args:
            after: tensors. Inputs in half precision are copied when these have been made:
                copies of all layers' inputs would be kept through the backward pass.
        """
        first = self.members[0]
        parts = []
        for use in first.uses:
            inputs = first.block.prepare(_held_back(use.inputs, after))
            parts.append(first.block.rows(inputs, bias=len(first.weights) == 2))
        return stack(parts)

    @property
    def inputs(self):
        """What was noted of every use as its inputs. The rows are made of them."""
        return [use.inputs for use in self.members[0].uses]

    def fixed(self):
        """Returns a problem with the same rows, which are constants for every tape."""
        first = self.members[0]
        uses = (dataclasses.replace(u, inputs=solution.fixed(u.inputs)) for u in first.uses)
        return Problem([dataclasses.replace(first, uses=tuple(uses))])

    @property
    def columns(self):
        return sum(member.block.columns for member in self.members)

    def solve(self, rows, d, rest, solver, tau):
        """Returns the directions, a list for every member's weights, and a boolean tensor:
        whether the problem was damped.

        Args:
            rows: what `rows()` returned.
            solver, tau: `Solver` and `Tau`.
            d: per member, `∂L/∂z` of each of its uses.
            rest: per member, the gradients of its weights that go around `z`, or `None`s.
        """
        d = [
            [tf.cast(member.block.outputs_as_matrix(part), rows.dtype) for part in parts]
            for parts, member in zip(d, self.members)
        ]
        d = _join([tf.concat(parts, axis=0) for parts in d])
        rest = self._as_direction(rest, rows.dtype)
        # A solver that sees the rows of one replica assumes that the others have rows like
        # these, and makes its replica's part of the whole direction.
        parts = 1 if solver.sees_all_replicas else replicas.parts()
        if parts > 1:
            d, rest = d / parts, rest and [part / parts for part in rest]
        direction, damped = solution.solve(self, rows, d, rest, solver, tau.of_part(parts))
        columns = zip(*map(self._split, direction))
        directions = [
            [member.block.matrix_as_weight(w, p) for p, w in zip(parts, member.weights)]
            for parts, member in zip(columns, self.members)
        ]
        return directions, damped

    def _split(self, part):
        """Returns every member's columns of a direction's part."""
        if len(self.members) == 1:
            return [part]
        return tf.split(part, [member.block.columns for member in self.members], axis=1)

    def _as_direction(self, rest, dtype):
        """Returns the members' other gradients as one direction, `None` if there are none."""
        if all(part is None for parts in rest for part in parts):
            return None
        joined = []
        for i in range(len(rest[0])):
            pieces = []
            for parts, member in zip(rest, self.members):
                weight = member.weights[i]
                part = tf.zeros(weight.shape, dtype) if parts[i] is None else parts[i]
                part = tf.cast(tf.convert_to_tensor(part), dtype)
                pieces.append(member.block.weight_as_matrix(weight, part))
            joined.append(_join(pieces))
        return joined


def _held_back(inputs, tensors):
    """Returns the inputs of a layer. What is in half precision waits for `tensors`."""

    def waiting(x):
        is_half = tf.is_tensor(x) and x.dtype in (tf.float16, tf.bfloat16)
        return tf.identity(x) if is_half else x

    with tf.control_dependencies(tensors):
        return tf.nest.map_structure(waiting, inputs, expand_composites=True)


def _join(matrices):
    return matrices[0] if len(matrices) == 1 else tf.concat(matrices, axis=1)


def sizes_of_step(problems):
    """Returns the attributes that the `ProblemSize`s of one step have in common.

    Args:
        problems: list of `(Problem, Rows)`, of implicit and of explicit steps.
    """
    members = [(member, rows) for problem, rows in problems for member in problem.members]
    labels = [rows.labels_per_item for member, rows in members if member.why == FINAL]
    # Normalizations, whose weights have one axis, are not counted.
    maps = [member for member, _ in members if len(member.weights[0].shape) > 1]
    followed = [member for member in maps if member.run is not None]
    # Those whose own outputs are normalized, as two in parallel, are a run each.
    others = {member.run for member in followed if not member.normalized}
    runs = sum(member.normalized for member in followed) + len(others)
    depths = {"depth": max(len(maps), 1), "normalized": len(followed), "runs": runs}
    return {"labels": max(labels, default=1), **depths}


def row_counts(members):
    """Returns `[(number of rows, rows per item)]` of the problems of a step.

    Args:
        members: what the `Plan` made of the forward pass.
    """
    implicit, explicit = Problem.of_step(members)
    return [(rows.count, rows.per_item) for _, rows in implicit + explicit]
