"""`summary`: which layers step implicitly, how, and at what price."""

import dataclasses
import math
from collections.abc import Callable

import keras
import tensorflow as tf

from keras_proxprop import machine
from keras_proxprop.arguments import check_whole
from keras_proxprop.keras_seams.layers import layers_of, own_variables
from keras_proxprop.keras_seams.optimizer_state import optimizer_of
from keras_proxprop.keras_seams.scratch import trace_call
from keras_proxprop.optimizers.finding import find_proxprop
from keras_proxprop.optimizers.problem_size import KnowsSizes
from keras_proxprop.optimizers.proxprop import ProxProp
from keras_proxprop.plan import Plan
from keras_proxprop.problem import Problem, sizes_of_step
from keras_proxprop.reports.nominal_call import call_of, nominal_batch_size
from keras_proxprop.reports.table import table_lines
from keras_proxprop.rows.one_hot import OneHotRows
from keras_proxprop.solvers.price import backpropagation
from keras_proxprop.weights import variable_key, variable_of

_FROZEN = "frozen"
# Why a variable steps explicitly where its layer steps implicitly.
_ANOTHER_MAP = "outside of the layer's linear map"


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """What `summary` says of the weights of a layer that step in the same way."""

    name: str
    kind: str
    weights: int
    step: str
    row_count: int = 0
    features: int = 0
    solver: str = ""
    extra: float = 0.0
    backpropagation: float = 0.0
    rate: float = 1.0
    sent: float = 0.0

    @property
    def cells(self):
        implicit = self.step == "implicit"
        return (
            f"{self.name} ({self.kind})",
            f"{self.weights:,}",
            self.step,
            f"{self.row_count:,} × {self.features:,}" if implicit else "",
            self.solver,
            f"{self.extra / self.backpropagation:.2f}" if implicit else "",
            f"{self.rate:.2g}×" if self.backpropagation else "",
            f"{self.sent:,.0f}" if self.step != _FROZEN else "",
        )


class Summary(tuple):
    """What `summary` returns: `LayerReport`s, in the order of the model's layers."""

    def __repr__(self):
        # `summary` has printed the table already.
        return f"<summary of {len(self)} layers>"


def summary(
    model: keras.Model,
    batch_size: int | None = None,
    optimizer: keras.optimizers.Optimizer | None = None,
    print_fn: Callable[[str], object] | None = None,
    replicas: int | None = None,
    device: str | None = None,
) -> Summary:
    """Prints which layers of a model take implicit steps, how, and at what cost.

    The table has a row for each layer with weights: its step (implicit, explicit and why, or
    frozen), the numbers of rows × features of its least-squares problem, the form of the
    solver (primal, dual, cg, or memory), the estimated extra cost in units of the layer's own
    backpropagation, and the factor of the learning rate (see `ScheduleFreeAdam`).

    Args:
        model: `keras.Model` whose input shapes are known (built from inputs, or called,
            or trained before).
        batch_size: int, the batch size to report for. Defaults to `None`: that of
            the model's inputs where it is fixed, else 32, as in `fit`. Other axes of unknown
            length count as 64.
        optimizer: the `ProxProp` to report for. Defaults to `None`: the one that the
            model is compiled with, or else `ProxProp()`.
        print_fn: function that is called with every line. Defaults to `None`: `print`.
        replicas: int, number of replicas of a `tf.distribute` strategy that share `batch_size`
            items. With more than one the table says how many bytes the replicas reduce or
            gather for each layer in a step, in the mean over steps. Defaults to `None`: one.
        device: "CPU" or "GPU", the kind of device to report for: what a step costs there,
            which forms it takes, and which layers step explicitly because of that. Prices of a
            GPU are those of an A100. Defaults to `None`: that of the replicas of the model's
            strategy, or a GPU where TensorFlow sees one.

    Returns:
        A tuple of dataclasses, one for each row of the table, with the attributes `name`,
        `kind`, `weights` (their number), `step`, `row_count`, `features` (their number),
        `solver`, `extra`, `backpropagation`, `rate` and `sent`. `extra` and `backpropagation`
        are counted in multiply-adds of float32 matrix products on the device, `sent` in bytes.

    Raises:
        TypeError: if `model` is not a `keras.Model`, or `optimizer` is not a `ProxProp`.
        ValueError: if `batch_size` or `replicas` is not an int of at least 1, `device` is
            unknown, or the shapes of the model's inputs are not known.

    Example:

    >>> layers = keras_proxprop.summary(model, batch_size=64)
    >>> [layer.name for layer in layers if layer.step == "implicit"]
    """
    replicas = 1 if replicas is None else check_whole("replicas", replicas)
    reports = Summary(layer_reports(model, batch_size, optimizer, replicas, device))
    head = (
        "Layer (type)",
        "Weights",
        "Step",
        "Rows × features",
        "Solver",
        "Extra cost",
        "Rate",
        "Bytes a step",
    )
    table = [head, *(report.cells for report in reports)]
    if replicas == 1:
        table = [cells[:-1] for cells in table]
    weights = sum(r.weights for r in reports if r.step != _FROZEN)
    implicit = sum(r.weights for r in reports if r.step == "implicit")
    extra = sum(r.extra for r in reports)
    total = sum(r.backpropagation for r in reports)
    batch_size = batch_size or nominal_batch_size(model)
    title = f"Implicit steps of {model.name!r}, batch size {batch_size}"
    for line in [
        title + _machine_of(model, device).note,
        *table_lines(table),
        f"{implicit:,} of {weights:,} trainable weights step implicitly; estimated extra "
        f"cost {extra / total if total else 0:.2f} × backpropagation of these layers.",
    ]:
        (print_fn or print)(line)
    return reports


def layer_reports(model, batch_size=None, optimizer=None, replicas=1, device=None):
    """Returns what `summary` returns, as a list of `LayerReport`s."""
    with machine.used(_machine_of(model, device)):
        return _layer_reports(model, batch_size, optimizer, replicas)


def _machine_of(model, device):
    """Returns the `Machine` of a device, by default that of the model's strategy."""
    # What is no model is refused by the plan.
    known = isinstance(model, keras.Model)
    strategy = model.distribute_strategy if known else tf.distribute.get_strategy()
    return machine.of_device(device, strategy)


def _layer_reports(model, batch_size, optimizer, replicas):
    if optimizer is not None and find_proxprop(optimizer) is None:
        raise TypeError(
            "Argument `optimizer` must be a `ProxProp`, or None for the one that the model "
            f"is compiled with. Received: optimizer={optimizer!r}"
        )
    proxprop = find_proxprop(optimizer or getattr(model, "optimizer", None)) or ProxProp()
    plan = Plan(model, **proxprop.plan_arguments())
    if batch_size is None:
        batch_size = nominal_batch_size(model)
    args, kwargs, batch_known = call_of(model, check_whole("batch_size", batch_size))

    def read(recorder):
        plan.check_exclude_matches()
        of_layer = {}
        for member, parts in _member_reports(plan, recorder, proxprop, batch_known, replicas):
            of_layer.setdefault(id(member.block.layer), []).append((member, parts))
        # The weights of a recurrent layer belong to its cell, shown by the layer's name.
        shown = {
            id(layer.cell): layer
            for layer in layers_of(model)
            if isinstance(layer, keras.layers.RNN)
        }
        reports = []
        for layer in layers_of(model):
            found = of_layer.get(id(layer), [])
            reports += [report for _, report in found]
            solved = {variable_key(w) for member, _ in found for w in member.weights}
            name = shown.get(id(layer), layer)
            trained = own_variables(layer)
            left = [v for v in trained if v.trainable and variable_key(v) not in solved]
            if left:
                why = _ANOTHER_MAP if found else plan.reason_without_member(recorder, layer)
                sent = {"sent": _gradient_bytes(left)} if replicas > 1 else {}
                reports.append(_report(name, left, f"explicit: {why}", **sent))
            elif trained and not any(v.trainable for v in trained):
                reports.append(_report(name, trained, _FROZEN))
        return reports

    return trace_call(model, plan.block, args, kwargs, read)


def _member_reports(plan, recorder, proxprop, batch_known, replicas):
    """Yields every `Member` of a recorded forward pass with its `LayerReport`."""
    members = plan.without_tied(recorder, plan.members(recorder))
    implicit, explicit = Problem.of_step(members)
    problems = implicit + explicit
    of_step = sizes_of_step(problems)
    solvers = plan.solvers(implicit, recorder.batch_size) + [None for _ in explicit]
    for (problem, rows), solver in zip(problems, solvers):
        why, sent = problem.members[0].why, 0
        if solver is not None:
            form, extra = solver.choice(rows, problem.columns, batch_known)
            if replicas > 1 and proxprop.cross_replica == "exact":
                sent = solver.traffic(rows, problem.columns, batch_known) * rows.dtype.size
        for member in problem.members:
            columns, layer = member.block.columns, member.block.reported_as
            own = {"backpropagation": backpropagation(rows, columns, rows.count)}
            variable = variable_of(member.weights[0])
            optimizer = optimizer_of(proxprop.inner_optimizer, variable)
            if isinstance(optimizer, KnowsSizes):
                size = member.size(member.weights[0], rows, rows.count, of_step)
                # Outside of the graph that the layers are recorded in.
                with tf.init_scope():
                    own["rate"] = float(optimizer.factor(size, variable))
            if solver is not None:
                # Layers that share a Gram matrix share its price.
                own |= {"row_count": rows.count, "features": rows.features, "solver": form}
                own["extra"] = extra * columns / problem.columns
            if replicas > 1:
                gradient = _gradient_bytes(member.weights, rows)
                own["sent"] = gradient + sent * columns / problem.columns
            step = "implicit" if why is None else f"explicit: {why}"
            yield member, _report(layer, member.weights, step, **own)


def _gradient_bytes(variables, rows=None):
    """Returns the bytes of gradients, as replicas add them up with any optimizer."""
    if isinstance(rows, OneHotRows):
        # Slices: a row and its place for every lookup.
        width = next(iter(variables)).shape[-1]
        return rows.count * (width * rows.dtype.size + rows.indices.dtype.size)
    return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in variables)


def _report(layer, variables, step, **others):
    weights = sum(math.prod(v.shape) for v in variables)
    return LayerReport(layer.name, type(layer).__name__, weights, step, **others)
