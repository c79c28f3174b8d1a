"""The least-squares problems of one step: which rows, which `D`, whose weights."""

import dataclasses

import tensorflow as tf

from keras_proxprop.blocks.rows import StackedRows


@dataclasses.dataclass(frozen=True)
class Member:
    """One layer of a problem: its recorded uses, and the weights to find directions for."""

    block: object
    uses: tuple
    weights: tuple

    @property
    def rows_key(self):
        """Equal for layers whose rows are the same tensors, seen in the same way."""
        inputs = tuple(id(use.inputs) for use in self.uses)
        return self.block.geometry, len(self.weights), inputs


class Problem:
    """Layers that read the same inputs: one matrix `A`, their outputs its columns.

    A layer that was called several times is one problem with its rows stacked; layers
    that were called on the same tensors share the Gram matrix and its factor.

    Args:
        members: `Member`s with equal `rows_key`.
    """

    def __init__(self, members):
        self.members = members

    @classmethod
    def group(cls, members):
        """Returns the problems that `members` form."""
        groups = {}
        for member in members:
            groups.setdefault(member.rows_key, []).append(member)
        return [cls(group) for group in groups.values()]

    def rows(self):
        """Returns the problem's `Rows`, in float32 or float64."""
        first = self.members[0]
        parts = []
        for use in first.uses:
            inputs = tf.cast(use.inputs, working_dtype(use.inputs.dtype))
            parts.append(first.block.rows(inputs, bias=len(first.weights) == 2))
        return parts[0] if len(parts) == 1 else StackedRows(parts)

    @property
    def columns(self):
        return sum(member.weights[0].shape[-1] for member in self.members)

    def solve(self, rows, d, rest, solver, tau):
        """Returns the direction of every member's weights, a list of lists, and whether
        the problem had to be damped, a boolean tensor.

        Args:
            rows: what `rows()` returned.
            d: per member, `∂L/∂z` of each of its uses.
            rest: per member, the gradient of its weights by other ways, or `None`s.
        """
        d = tf.concat([_stack(parts, rows.dtype) for parts in d], axis=1)
        direction, damped = solver.solve(rows, d, tau, self._join(rest, rows.dtype))
        widths = [member.weights[0].shape[-1] for member in self.members]
        columns = zip(*(tf.split(part, widths, axis=1) for part in direction))
        directions = [
            [tf.reshape(p, w.shape) for p, w in zip(parts, member.weights)]
            for parts, member in zip(columns, self.members)
        ]
        return directions, damped

    def _join(self, rest, dtype):
        """Returns the members' other gradients as one direction, `None` if there are none."""
        if all(part is None for parts in rest for part in parts):
            return None
        joined = []
        for i in range(len(rest[0])):
            pieces = []
            for parts, member in zip(rest, self.members):
                shape = member.weights[i].shape
                part = tf.zeros(shape, dtype) if parts[i] is None else parts[i]
                pieces.append(tf.reshape(tf.cast(part, dtype), [-1, shape[-1]]))
            joined.append(tf.concat(pieces, axis=1))
        return joined


def working_dtype(dtype):
    """Returns the dtype for Gram matrices and solves: at least float32."""
    return dtype if dtype == tf.float64 else tf.float32


def _stack(parts, dtype):
    flat = [tf.reshape(tf.cast(part, dtype), [-1, part.shape[-1]]) for part in parts]
    return tf.concat(flat, axis=0)
