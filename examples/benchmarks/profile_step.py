"""Where the time of an implicit step goes, layer by layer.

Each piece is compiled and timed alone, on the inputs that its layer gets: the matrix that the
exact step factorizes (`AᵀA` or `AAᵀ`), the weight gradient `AᵀD`, and the whole solve. The
whole step of a model is `step_time.py`'s.

    python examples/benchmarks/profile_step.py --task convnet64
"""

import argparse
import time

import keras
import tensorflow as tf

import step_time
from keras_proxprop.blocks import find_block
from keras_proxprop.solvers import _get


def milliseconds(function, inputs, jit, runs):
    """Returns the fastest run's time."""
    compiled = tf.function(function, jit_compile=jit, autograph=False)
    times = []
    for _ in range(runs + 1):
        begin = time.perf_counter()
        tf.nest.map_structure(lambda t: t.numpy(), compiled(*inputs))
        times.append(1e3 * (time.perf_counter() - begin))
    return min(times[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", choices=step_time.TASKS, default="convnet64")
    parser.add_argument("--jit", choices=("no", "yes"), default="no")
    parser.add_argument("--runs", type=int, default=10)
    args = parser.parse_args()
    jit = args.jit == "yes"
    _, make_model, shape, batch = step_time.TASKS[args.task]
    model, solver = make_model(), _get("auto")
    x = tf.random.uniform([batch, *shape])

    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(x, training=True) ** 2)
        return tape.gradient(loss, model.trainable_variables)

    print(f"{args.task}, batch {batch}, {'XLA' if jit else 'no XLA'}; milliseconds")
    print(f"forward and backward: {milliseconds(gradients, [x], jit, args.runs):.2f}")
    head = ("rows × features", "form", "matrix", "AᵀD", "solve")
    print("{:24s}{:>18s}{:>8s}{:>9s}{:>9s}{:>9s}".format("layer", *head))
    for layer in model.layers[:-1]:
        block = find_block(layer)[0]
        if block is None:
            continue
        inputs = block.prepare(keras.Model(model.inputs, layer.input)(x))
        bias = len(block.weights) == 2

        def rows(inputs, block=block, bias=bias):
            return block.rows(inputs, bias)

        known = rows(inputs)
        form, _ = solver.choose(known, block.columns)
        d = tf.random.normal([known.count, block.columns])

        def matrix(inputs, d, rows=rows, form=form):
            return rows(inputs).matrix().outer() if form == "dual" else rows(inputs).gram()

        def gradient(inputs, d, rows=rows):
            return rows(inputs).multiply_transposed(d)

        def solve(inputs, d, rows=rows):
            return solver.solve(rows(inputs), d, tf.constant(1.0))[0]

        pieces = [None if form == "closed" else matrix, gradient, solve]
        times = [f and milliseconds(f, [inputs, d], jit, args.runs) for f in pieces]
        size = f"{known.count:,} × {known.features:,}"
        cells = "".join(f"{'-' if t is None else format(t, '.2f'):>9s}" for t in times)
        print(f"{layer.name:24s}{size:>18s}{form:>8s}{cells}", flush=True)


if __name__ == "__main__":
    main()
