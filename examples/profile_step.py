"""Where the time of an implicit step goes, layer by layer.

Each piece is compiled and timed alone, on the inputs that its layer gets, in processor time
(of all cores together): the matrix that the exact step factorizes (`AᵀA` or `AAᵀ`), the
inverse of its Cholesky factor, the weight gradient `AᵀD`, which is part of backpropagation
too, and the whole solve at τ = 1, without memory. "Beyond" is what the solves cost more than
the weight gradients. `benchmarks/PROFILE.md` discusses it. The whole step of a model is
`step_time.py`'s.

    python examples/profile_step.py --task convnet64
"""

import argparse
import time

import keras
import tensorflow as tf

import step_time
from keras_proxprop.blocks import find_block
from keras_proxprop.solvers import _get
from keras_proxprop.solvers.inverse_factor import inverse_factor
from keras_proxprop.tau import Tau


def milliseconds(function, inputs, jit, runs):
    """Returns the fastest run's processor time."""
    compiled = tf.function(function, jit_compile=jit, autograph=False)
    times = []
    for _ in range(runs + 1):
        begin = time.process_time()
        tf.nest.map_structure(lambda t: t.numpy(), compiled(*inputs))
        times.append(1e3 * (time.process_time() - begin))
    return min(times[1:])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", choices=step_time.TASKS, default="convnet64")
    parser.add_argument("--jit", choices=("no", "yes"), default="no")
    parser.add_argument("--runs", type=int, default=10)
    args = parser.parse_args(argv)
    jit = args.jit == "yes"
    _, make_model, shape, batch = step_time.TASKS[args.task]
    model, solver = make_model(), _get("auto")
    x = tf.random.uniform([batch, *shape])

    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(x, training=True) ** 2)
        return tape.gradient(loss, model.trainable_variables)

    print(f"{args.task}, batch {batch}, {'XLA' if jit else 'no XLA'}; milliseconds")
    whole = milliseconds(gradients, [x], jit, args.runs)
    print(f"forward and backward: {whole:.1f}")
    head = ("rows × features", "form", "matrix", "factor", "AᵀD", "solve")
    print("{:24s}{:>18s}{:>8s}{:>9s}{:>9s}{:>9s}{:>9s}".format("layer", *head))
    beyond = 0.0
    for layer in model.layers[:-1]:
        block = find_block(layer)[0]
        if block is None:
            continue
        inputs = block.prepare(keras.Model(model.inputs, layer.input)(x))
        bias = len(block.weights) == 2

        def rows(inputs, block=block, bias=bias):
            return block.rows(inputs, bias)

        known = rows(inputs)
        form, _ = solver.choice(known, block.columns)
        d = tf.random.normal([known.count, block.columns])

        def matrix(inputs, d, rows=rows, form=form):
            return rows(inputs).matrix().outer() if form == "dual" else rows(inputs).gram()

        def gradient(inputs, d, rows=rows):
            return rows(inputs).multiply_transposed(d)

        def solve(inputs, d, rows=rows):
            return solver.solve(rows(inputs), d, Tau(1.0))[0]

        def factor(inputs, d, matrix=matrix):
            return inverse_factor(matrix(inputs, d), tf.constant(1.0), 0.0)[0]

        exact = form in ("primal", "dual")
        pieces = [exact and matrix, exact and factor, gradient, solve]
        times = [f and milliseconds(f, [inputs, d], jit, args.runs) for f in pieces]
        beyond += times[3] - times[2]
        if exact:
            times[1] -= times[0]
        size = f"{known.count:,} × {known.features:,}"
        cells = "".join(f"{format(t, '.1f') if t else '-':>9s}" for t in times)
        print(f"{layer.name:24s}{size:>18s}{form:>8s}{cells}", flush=True)
    print(f"beyond: {beyond:.1f}, {beyond / whole:.2f} of forward and backward")


if __name__ == "__main__":
    main()
