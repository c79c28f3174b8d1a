"""`summary`: which layers step implicitly, how, and at what price."""

import dataclasses
import math
import numbers

import keras
import tensorflow as tf

from keras_proxprop import final_layers
from keras_proxprop.keras_seams import recording
from keras_proxprop.optimizers.row_adam import RowAdam, row_factor
from keras_proxprop.plan import ELSEWHERE, FINAL, SHARED, Plan, shared_variables
from keras_proxprop.problem import Member, Problem
from keras_proxprop.solvers import price

# What `fit` takes where it is not told a batch size.
_KERAS_BATCH_SIZE = 32
# What an axis of unknown length is reported for.
_NOMINAL_LENGTH = 64
_FROZEN = "frozen"


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """A row of the summary: one layer with trainable weights."""

    name: str
    kind: str
    weights: int
    step: str
    rows: int = 0
    features: int = 0
    solver: str = ""
    extra: float = 0.0
    backpropagation: float = 0.0
    rate: float = 1.0

    @property
    def cells(self):
        implicit = self.step == "implicit"
        return (
            f"{self.name} ({self.kind})",
            f"{self.weights:,}",
            self.step,
            f"{self.rows:,} × {self.features:,}" if implicit else "",
            self.solver,
            f"{self.extra / self.backpropagation:.2f}" if implicit else "",
            f"{self.rate:.1f}×" if implicit else "",
        )


def summary(model, batch_size=None, optimizer=None):
    """Prints which layers of a model take implicit steps, how, and at what price.

    A row per weighted layer: its step (implicit, explicit and why, or frozen), the
    rows × features of its least-squares problem, the form that the solver takes (primal,
    dual, cg, or memory), the estimated extra cost in units of the layer's own
    backpropagation, and by what its learning rate is multiplied (see `RowAdam`).

    Args:
        model: `keras.Model` whose input shapes are known (built from inputs, or called,
            or trained before).
        batch_size: int, the batch size to report for. Defaults to `None`: 32, which is
            what `fit` takes by default. Other axes of unknown length count as 64.
        optimizer: the `ProxProp` to report for. Defaults to `None`: the one that the
            model is compiled with, or else `ProxProp()`.

    Raises:
        TypeError: if `model` is not a `keras.Model`, or `optimizer` is not a `ProxProp`.
        ValueError: if `batch_size` is not an int of at least 1, or the shapes of the model's
            inputs are not known.

    Example:

    >>> keras_proxprop.summary(model, batch_size=64)
    """
    reports = layer_reports(model, batch_size, optimizer)
    head = (
        "Layer (type)",
        "Weights",
        "Step",
        "Rows × features",
        "Solver",
        "Extra cost",
        "Rate",
    )
    table = [head, *(report.cells for report in reports)]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)) for row in table]
    lines.insert(1, "  ".join("-" * w for w in widths))
    weights = sum(r.weights for r in reports if r.step != _FROZEN)
    implicit = sum(r.weights for r in reports if r.step == "implicit")
    extra = sum(r.extra for r in reports)
    total = sum(r.backpropagation for r in reports)
    print(f"Implicit steps of {model.name!r}, batch size {batch_size or _KERAS_BATCH_SIZE}")
    print("\n".join(line.rstrip() for line in lines))
    print(
        f"{implicit:,} of {weights:,} trainable weights step implicitly; estimated extra "
        f"cost {extra / total if total else 0:.2f} × backpropagation of these layers."
    )


def layer_reports(model, batch_size=None, optimizer=None):
    """Returns the rows of `summary`, a `LayerReport` each."""
    # The optimizer knows the training step, which reports through this module's package.
    from keras_proxprop.optimizers.proxprop import ProxProp, find_proxprop

    if optimizer is not None and find_proxprop(optimizer) is None:
        raise TypeError(
            f"Argument `optimizer` must be a `ProxProp`. Received: optimizer={optimizer!r}"
        )
    proxprop = find_proxprop(optimizer or getattr(model, "optimizer", None)) or ProxProp()
    plan = Plan(model, proxprop.exclude)
    args, kwargs = _call_of(model, _check_batch_size(batch_size))
    recorder = final_layers.scratch_recorder(model, plan.block, args, kwargs)
    plan.check_exclude_matches()
    final = final_layers.final_layers(recorder, None)
    uses = {}
    for use in recorder.uses:
        uses.setdefault(id(use.block.layer), {}).setdefault(id(use.block), []).append(use)
    blocks = [own[0].block for parts in uses.values() for own in parts.values()]
    shared = shared_variables(blocks)
    # A recurrent layer's weights are its cell's: reported under the name that the user gave.
    recurrent = {
        id(layer.cell): layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.RNN)
    }
    reports = []
    with recorder.graph.as_default():
        for layer in model._flatten_layers():
            # A wrapper may hold weights of what it wraps.
            inner = layer._flatten_layers(include_self=False)
            wrapped = {id(v) for other in inner for v in other._trainable_variables}
            held = [v for v in layer._trainable_variables if id(v) not in wrapped]
            own = [v for v in held if v.trainable]
            shown = recurrent.get(id(layer), layer)
            if not own:
                if held:
                    reports.append(_frozen_report(layer, shown))
                continue
            why = plan.reason(layer)
            if why is None and id(layer) not in uses:
                why = ELSEWHERE if id(layer) in recorder.elsewhere else "not called"
            if why is None and any(id(w) in shared for w in own):
                why = SHARED
            if why is None and proxprop.final_layer == "explicit" and id(layer) in final:
                why = FINAL
            parts = list(uses.get(id(layer), {}).values())
            for part in parts or [None]:
                weights = own if len(parts) < 2 else part[0].block.weights
                reports.append(_report(shown, weights, why, part, proxprop))
    return reports


def _report(layer, own, why, uses, proxprop):
    kind, weights = type(layer).__name__, _size(own)
    if not uses:
        return LayerReport(layer.name, kind, weights, f"explicit: {why}")
    block = uses[0].block
    problem = Problem([Member(block, tuple(uses), tuple(block.weights))])
    rows = problem.rows()
    backpropagation = price.backpropagation(rows, problem.columns, rows.count)
    if why is not None:
        return LayerReport(
            layer.name, kind, weights, f"explicit: {why}", backpropagation=backpropagation
        )
    solver, memory = proxprop.solver, proxprop.memory
    if memory is not None:
        solver = memory.solver(rows, problem.columns, solver)
    form, extra = solver.choose(rows, problem.columns)
    rate = 1.0
    if isinstance(proxprop.inner_optimizer, RowAdam):
        rate = row_factor(int(rows.count))
    return LayerReport(
        layer.name,
        kind,
        weights,
        "implicit",
        rows.count,
        rows.features,
        form,
        extra,
        backpropagation,
        rate,
    )


def _frozen_report(layer, shown):
    weights = _size(layer._trainable_variables)
    return LayerReport(shown.name, type(shown).__name__, weights, _FROZEN)


def _size(variables):
    return sum(math.prod(v.shape) for v in variables)


def _check_batch_size(batch_size):
    if batch_size is None:
        return _KERAS_BATCH_SIZE
    whole = isinstance(batch_size, numbers.Integral) and not isinstance(batch_size, bool)
    if not whole or batch_size < 1:
        raise ValueError(
            "Argument `batch_size` must be an integer of at least 1. "
            f"Received: batch_size={batch_size!r}"
        )
    return int(batch_size)


def _call_of(model, batch_size):
    """Returns `(args, kwargs)` of a call of the model, tensors as `tf.TensorSpec`."""

    def spec(shape, dtype):
        lengths = [_NOMINAL_LENGTH if length is None else length for length in shape[1:]]
        return tf.TensorSpec([batch_size, *lengths], dtype)

    def built_for(shapes):
        if isinstance(shapes, dict):
            return {name: built_for(shape) for name, shape in shapes.items()}
        if any(isinstance(shape, (tuple, list, dict)) for shape in shapes):
            return [built_for(shape) for shape in shapes]
        return spec(shapes, model.input_dtype)

    if getattr(model, "inputs", None):
        inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
        return (keras.tree.map_structure(lambda t: spec(t.shape, t.dtype), inputs),), {}
    if model in recording.last_call:

        def resized(x):
            batch = isinstance(x, tf.TensorSpec) and x.shape.rank
            return spec(x.shape, x.dtype) if batch else x

        return tf.nest.map_structure(resized, recording.last_call[model])
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes:
        raise ValueError(
            f"The input shapes of model {model.name!r} are not known: build it with "
            "`model.build(input_shape)`, or train it for a step, before `summary`."
        )
    return tuple(built_for(shape) for shape in shapes.values()), {}
