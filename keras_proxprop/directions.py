"""From the gradients of one backward pass to the directions of the steps."""

import dataclasses

import tensorflow as tf

from keras_proxprop import replicas
from keras_proxprop.keras_seams.finite_step import all_finite
from keras_proxprop.problem import Problem, sizes_of_step
from keras_proxprop.solvers import price
from keras_proxprop.solvers.auto import Auto
from keras_proxprop.solvers.exact import Exact
from keras_proxprop.solvers.gradient import Gradient
from keras_proxprop.weights import WeightSlice, variable_key


def replace_by_directions(found, members, d, plan, batch_size, tau, loss, observer=None):
    """Puts directions in the place of gradients.

    Args:
        found: `{variable_key: the part of its gradient that goes around the recorded linear
            maps, or None}`, of the variables for which directions are wanted.
        members: what the `Plan` made of the forward pass.
        d: `{id of a z: ∂L/∂z, or None}`.
        plan, tau: `Plan` and `Tau`.
        batch_size: as in `Plan.solvers`.
        loss: nest of tensors. Where one is not finite, memory stays as it is.
        observer: an object that looks at every implicit solve, or `None`.

    Returns:
        `{variable_key: ProblemSize}`; a list: whether each problem was damped; and
        `{variable_key: tensors}`, of directions that are finite if these tensors are.
    """
    # Weights that are slices of one variable do not see each other's directions.
    rest = dict(found)
    sizes, damped, made_of = {}, [], {}

    def solve(problem, rows, solver, rest):
        of_uses = [[d[id(use.z)] for use in member.uses] for member in problem.members]
        others = [[_read(rest, w) for w in member.weights] for member in problem.members]
        directions, was_damped = problem.solve(rows, of_uses, others, solver, tau)
        damped.append(was_damped)
        if _is_finite_as_its_rows(problem, rows, solver, others):
            tensors = [of_uses, problem.inputs, tau.tensor]
            tensors = [part for part in tf.nest.flatten(tensors) if tf.is_tensor(part)]
            for member in problem.members:
                made_of.update({variable_key(w): tensors for w in member.weights})
        # One tensor for all weights, which tells that they have as many rows.
        count = rows.count
        for member, parts in zip(problem.members, directions):
            for weight, part in zip(member.weights, parts):
                sizes[variable_key(weight)] = member.size(weight, rows, count, of_step)
                if variable_key(weight) in found:
                    _write(found, weight, tf.cast(part, weight.dtype))

    members = _reached(members, d)
    implicit, explicit = Problem.of_step(members, d)

    def finite():
        made_of = [d, rest, loss, [problem.inputs for problem, _ in implicit]]
        made_of = tf.nest.flatten(made_of, expand_composites=True)
        return all_finite([part for part in made_of if tf.is_tensor(part)])

    of_step = sizes_of_step(implicit + explicit)
    solvers = plan.refreshed(implicit, batch_size, tau, finite)
    for (problem, rows), solver in zip(implicit, solvers):
        if observer is not None:
            solver = observer.observe(problem, rows, solver)
        solve(problem, rows, solver, rest)
    for problem, rows in explicit:
        solve(problem, rows, Gradient(), found)
    return sizes, damped, made_of


def _is_finite_as_its_rows(problem, rows, solver, others):
    """Returns whether directions are finite if what they are made of is, and that has far
    fewer entries: to look at all weights takes a tenth of a step with few rows."""
    # What float32 has lost these solve for again in float64, and damp what float64 has lost.
    if type(solver) not in (Exact, Auto) or rows.layout is None or replicas.in_sync() > 1:
        return False
    if not set(solver.forms(rows, problem.columns)) <= {"primal", "dual"}:
        return False
    weights = [weight for member in problem.members for weight in member.weights]
    if any(isinstance(w, WeightSlice) or tf.as_dtype(w.dtype) != rows.dtype for w in weights):
        return False
    if any(part is not None for parts in others for part in parts):
        return False
    entries = rows.features * problem.columns
    return 2 * price.known_count(rows) * (rows.features + problem.columns) <= entries


def _reached(members, d):
    """Returns the members without the uses that the loss does not depend on."""
    reached = []
    for member in members:
        uses = tuple(use for use in member.uses if d[id(use.z)] is not None)
        if uses:
            reached.append(dataclasses.replace(member, uses=uses))
    return reached


def _read(values, weight):
    """Returns the value of a weight or, where it is a slice of a variable, of its slice."""
    value = values.get(variable_key(weight))
    if value is None or not isinstance(weight, WeightSlice):
        return value
    return weight.read(value)


def _write(values, weight, value):
    if isinstance(weight, WeightSlice):
        value = weight.write(value, values[variable_key(weight)])
    values[variable_key(weight)] = value
