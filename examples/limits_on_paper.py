"""Predicts what a step costs on one A100, from counts of operations, launches and bytes.

    python examples/limits_on_paper.py

Nothing is run and nothing is measured: four large nets are traced, `keras_proxprop` says by
which form each layer would step on a GPU, and all is counted by the peaks in
`keras_proxprop/machine.py`. How it is counted:

- A layer's backpropagation is three products in TF32. What has to keep float32's accuracy
  (Gram matrices, inverses, what they are multiplied with) is three products in TF32 for each
  product; AᵀD, which takes the place of the gradient, is one to three, as the form asks.
- A kernel is launched in five microseconds: three kernels for a layer's backpropagation, and
  what `keras_proxprop/solvers/price.py` says for a form of the step.
- Each layer writes its outputs, the next one reads them, and backpropagation does so twice
  more, with a reading of the outputs. An optimizer reads and writes the weights and its two
  numbers for each, and reads the gradient. A product reads its factors and writes its result.
- Operations, launches and bytes take their turns: nothing overlaps and nothing is fused.
- A refresh of memory is spread evenly over the steps until the next. Its inverses are made at
  19.5 TFLOP/s, which an A100 reaches in float32 and, on tensor cores, in float64.
"""

import argparse
import collections
import dataclasses
import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

from keras_proxprop import ProxProp, machine
from keras_proxprop.keras_seams.layers import layers_of
from keras_proxprop.keras_seams.scratch import trace_call
from keras_proxprop.memory.averaged_gram import Averaged, Kept
from keras_proxprop.plan import Plan
from keras_proxprop.problem import Problem
from keras_proxprop.reports.nominal_call import call_of
from keras_proxprop.solvers import price
from parts.nets_on_paper import gpt2_small, mlp_4096, resnet50, vit_b
from parts.recurrent_on_paper import recurrent_table

# A model, and items of a batch.
NETS = {
    "MLP 4×4096": (mlp_4096, 512),
    "ResNet50": (resnet50, 256),
    "ViT-B/16": (vit_b, 128),
    "GPT-2 small": (gpt2_small, 8),
}
# The optimizer, and what its step is to be over Adam's at most.
STEPS = {
    "each batch's own matrices": (lambda: ProxProp(memory=None), 1.15),
    "default, with memory": (ProxProp, 1.05),
}
NUMBER = 4
# What writes nothing of its own.
NO_OUTPUT = keras.Model, keras.layers.InputLayer, keras.layers.Flatten, keras.layers.Reshape
# Multiply-adds alone, launches left out.
ARITHMETIC = dataclasses.replace(machine.GPU, launch=0, latency=0)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What is done in a step: time and operations as prices count them, bytes, and state; of
    the time, what more exact products of `AᵀD` take."""

    price: float = 0.0
    operations: float = 0.0
    bytes: float = 0.0
    state: float = 0.0
    right_side: float = 0.0

    def __add__(self, other):
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other))
        return Cost(*(a + b for a, b in pairs))

    @property
    def seconds(self):
        return self.price / machine.PRODUCTS + self.bytes / machine.BYTES

    @property
    def waiting(self):
        """Seconds of launches."""
        return (self.price - self.operations) / machine.PRODUCTS

    @property
    def multiply_adds(self):
        return machine.SPLIT * self.operations


def costs_of_step(model, batch, optimizer):
    """Returns the `Cost` of backpropagation through the layers with weights, and of every
    implicit step beyond it: a list of `(label, Cost)`."""
    plan = Plan(model, **optimizer.plan_arguments())
    args, kwargs, _ = call_of(model, batch)

    def read(recorder):
        members = plan.without_tied(recorder, plan.members(recorder))
        implicit, explicit = Problem.of_step(members)
        own = [of_backpropagation(problem, rows) for problem, rows in implicit + explicit]
        solvers = plan.solvers(implicit, recorder.batch_size)
        extra = [beyond(*each, solver) for each, solver in zip(implicit, solvers)]
        return sum(own, Cost()), extra

    with machine.used(machine.GPU):
        return trace_call(model, plan.block, args, kwargs, read)


def of_backpropagation(problem, rows):
    def priced():
        widths = [member.block.columns for member in problem.members]
        return sum(price.backpropagation(rows, width, rows.count) for width in widths)

    with machine.used(ARITHMETIC):
        operations = priced()
    return Cost(priced(), operations)


def beyond(problem, rows, solver):
    """Returns what a problem is called, and the `Cost` of its step beyond backpropagation."""
    form, cost = solver.choice(rows, problem.columns)
    layer = type(problem.members[0].block.reported_as).__name__
    label = f"{layer} {rows.count:,} × {rows.features:,}, {form}"
    moved = numbers_moved(form, problem, rows) * NUMBER
    if rows.closed_form:
        with machine.used(ARITHMETIC):
            return label, Cost(cost, price.closed(rows, problem.columns), moved)
    with machine.used(ARITHMETIC):
        operations = solver.prices(rows, problem.columns, rows.count)[form]
    state = 2 * rows.groups * rows.features**2 * NUMBER * isinstance(solver, Averaged)
    right = of_right_side(problem, rows, form)
    return label, Cost(cost, operations, moved + right.bytes, state, right.seconds)


def numbers_moved(form, problem, rows):
    """Returns how many numbers the products of a form read and write."""
    count, columns, inputs = rows.count, problem.columns, _inputs(problem)
    matrix, weights = rows.groups * rows.features**2, rows.features * columns
    if form == "closed":
        return 2 * weights
    # A product of float32's accuracy is made three times; a factor reads and writes twice.
    gram, factor = machine.SPLIT * (inputs + matrix), 4 * matrix
    if form == "primal":
        return gram + factor + machine.SPLIT * (matrix + 2 * weights)
    if form == "dual":
        side = min(rows.features, columns)
        outer = machine.SPLIT * (inputs + count**2) + 4 * count**2
        return outer + machine.SPLIT * (count**2 + 2 * count * side)
    refresh_every = int(form.removeprefix("memory/"))
    # The average is read and written, too.
    refresh = (gram + factor + 2 * matrix) / refresh_every
    return refresh + machine.SPLIT * (matrix + 2 * weights)


def _inputs(problem):
    return sum(math.prod(x.shape) for x in problem.inputs if hasattr(x, "shape"))


def of_right_side(problem, rows, form):
    """Returns the `Cost` of an exact `AᵀD`, beyond that of the explicit step's."""
    columns, count = problem.columns, rows.count
    kept = form.startswith("memory") and Kept(None).choice(rows, columns)[0]
    more = {"dual": 2, "before": 0}.get(kept or form, 1)
    cost = price.right_side(rows, columns, count, more)
    numbers = _inputs(problem) + (count + rows.features) * columns
    return Cost(cost, cost, more * numbers * NUMBER)


def around(model, batch):
    """Returns the `Cost` of what the layers do besides their products with weights, and of
    an optimizer with two numbers a weight."""
    outputs = products = 0
    for layer in layers_of(model, include_self=False):
        if not isinstance(layer, NO_OUTPUT) and hasattr(layer, "output"):
            outputs += batch * sum(
                math.prod(x.shape[1:]) for x in keras.tree.flatten(layer.output)
            )
        if isinstance(layer, keras.layers.MultiHeadAttention):
            length, width = layer.output.shape[1:]
            # Query, key, value and what is attended to; scores, and their softmax.
            outputs += batch * (4 * length * width + 2 * layer.num_heads * length**2)
            products += 3 * 2 * batch * length**2 * width
    weights = sum(math.prod(v.shape) for v in model.trainable_variables)
    products *= machine.GPU.plain
    return Cost(products, products, (5 * outputs + 7 * weights) * NUMBER, 2 * weights * NUMBER)


def counted(name):
    """Yields `(step, aim, Cost, step over Adam's, most expensive layers)` for a net, with what
    those layers add in units of Adam's step, and what of that is for an exact `AᵀD`, and for
    launches."""
    make, batch = NETS[name]
    model = make()
    rest = around(model, batch)
    own, _ = costs_of_step(model, batch, ProxProp())
    adam = own + rest
    yield "Adam", None, adam, 1.0, []
    for step, (optimizer, aim) in STEPS.items():
        _, extra = costs_of_step(model, batch, optimizer())
        whole = sum((cost for _, cost in extra), adam)
        parts = collections.defaultdict(list)
        for label, cost in extra:
            parts[label].append(cost)
        parts = [
            (f"{len(each)} × {label}", sum(each, Cost())) for label, each in parts.items()
        ]
        worst = sorted(parts, key=lambda part: -part[1].seconds)[:3]
        shares = [
            (
                label,
                *(
                    part / adam.seconds
                    for part in (cost.seconds, cost.right_side, cost.waiting)
                ),
            )
            for label, cost in worst
        ]
        yield step, aim, whole, whole.seconds / adam.seconds, shares


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[*NETS, "LSTM"], choices=[*NETS, "LSTM"])
    only = parser.parse_args(argv).only
    print("| net | step | 10⁹ products | GB | state, MB | ms | over Adam's | AᵀD | aim |")
    print("|---|---|---|---|---|---|---|---|---|")
    missed = []
    for name in (name for name in only if name in NETS):
        for step, aim, cost, ratio, worst in counted(name):
            figures = f"{cost.multiply_adds / 1e9:,.0f} | {cost.bytes / 1e9:,.1f}"
            figures += f" | {cost.state / 1e6:,.0f} | {1e3 * cost.seconds:,.1f} | {ratio:.2f}"
            figures += f" | {ratio * cost.right_side / cost.seconds:.2f} | {aim or ''}"
            print(f"| {name}, {NETS[name][1]} | {step} | {figures} |", flush=True)
            if aim and ratio > aim:
                missed += [(name, step, *part) for part in worst]
    if missed:
        print("\n| misses its aim | step | most expensive layers | add | AᵀD | launches |")
        print("|---|---|---|---|---|---|")
    for *row, adds, right, waiting in missed:
        print(f"| {' | '.join(row)} | {adds:.2f} | {right:.2f} | {waiting:.2f} |")
    if "LSTM" in only:
        print()
        recurrent_table()


if __name__ == "__main__":
    main()
