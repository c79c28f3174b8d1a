"""What the pieces of an implicit step cost, in multiply-adds of a matrix product.

`keras_proxprop` compares the forms of a step by such prices. Each constant is measured here
against a product of matrices that does nothing but multiply and add, in the same run, turn
by turn; the median over the turns is printed beside the constant that the package has. They
need to be right within a factor of two: forms of about one price are about equally good.

    python examples/prices.py
"""

import argparse
import statistics
import time

import tensorflow as tf

from keras_proxprop.machine import CPU
from keras_proxprop.rows import patches
from keras_proxprop.rows.patches import PatchRows
from keras_proxprop.rows.windows import Windows
from keras_proxprop.solvers.inverse_factor import inverse_factor


def seconds(function, *inputs):
    """Returns how long the function takes, compiled, its first run left out."""
    compiled = tf.function(function, autograph=False)
    compiled(*inputs)
    begin = time.perf_counter()
    runs = 0
    while time.perf_counter() - begin < 0.2:
        tf.nest.map_structure(lambda t: t.numpy(), compiled(*inputs))
        runs += 1
    return (time.perf_counter() - begin) / runs


def product():
    """Returns the seconds of a multiply-add of a matrix product."""
    x = tf.random.normal([1024, 1024])
    return seconds(lambda x: tf.matmul(x, x), x) / 1024**3


def factor(n):
    """Returns the price of an inverse Cholesky factor in units of n³."""
    x = tf.random.normal([n, 2 * n])
    gram = tf.matmul(x, x, transpose_b=True)
    return seconds(lambda g: inverse_factor(g, tf.constant(1.0), 0.0)[0], gram) / n**3


def correlation(size, channels):
    """Returns the price of a multiply-add of the Gram matrix by correlation."""
    rows = PatchRows(tf.random.normal([64, size, size, channels]), _windows(), bias=False)
    count = 64 * rows._correlation_cost()
    made = CPU.correlation * max(1, CPU.channels / channels)
    return made * seconds(lambda x: _rows(x)._correlation_gram(), rows.images) / count


def write(size, channels):
    """Returns the price of writing a number of a patch."""
    x = tf.random.normal([64, size, size, channels])
    return seconds(lambda x: _rows(x).matrix().x, x) / (64 * size**2 * 25 * channels)


def operation():
    """Returns the price of tracing one small operation in a branch, and of its first run."""
    return (seconds_once(400) - seconds_once(100)) / 300


def seconds_once(operations):
    """Returns how long it takes to trace so many operations in a branch and to run it."""

    def branch(x):
        for _ in range(operations // 2):
            x = tf.reshape(tf.transpose(x), [2, 3])
        return x

    x = tf.ones([2, 3])
    begin = time.perf_counter()

    def step(x):
        return tf.cond(x[0, 0] > 0, lambda: branch(x), lambda: x)

    tf.function(step, autograph=False)(x).numpy()
    return time.perf_counter() - begin


def choice():
    """Returns the price of choosing between two forms at run time, without their trace."""
    x = tf.ones([2, 3])

    def chained(choose):
        def run(x):
            for _ in range(100):
                x = choose(x)
            return x

        return seconds(run, x)

    chosen = chained(lambda x: tf.cond(x[0, 0] > 0, lambda: x + 1, lambda: x - 1))
    return (chosen - chained(lambda x: x + 1)) / 100


def _windows():
    return Windows((5, 5), (1, 1), (1, 1), "same")


def _rows(images):
    return PatchRows(images, _windows(), bias=False)


PIECES = {
    "inverse factor, 256, of n³": (lambda: factor(256), CPU.factorize),
    "inverse factor, 512, of n³": (lambda: factor(512), CPU.factorize),
    "inverse factor, 1,024, of n³": (lambda: factor(1024), CPU.factorize),
    "correlation, 16×16×32, a multiply-add": (
        lambda: correlation(16, 32),
        CPU.correlation,
    ),
    "correlation, 32×32×3, a multiply-add": (
        lambda: correlation(32, 3),
        CPU.correlation * CPU.channels / 3,
    ),
    "writing a patch, 16×16×16, a number": (lambda: write(16, 16), CPU.write),
    "choosing at run time (the rest is its trace)": (choice, CPU.choice),
    "an operation traced, over 100 steps": (lambda: operation() / 100, patches._OPERATION),
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=5)
    turns = parser.parse_args(argv).turns
    found = {name: [] for name in PIECES}
    for _ in range(turns):
        for name, (measure, _) in PIECES.items():
            found[name].append(measure() / product())
    print(f"{'piece':45s}{'measured':>12s}{'in use':>12s}")
    for name, (_, constant) in PIECES.items():
        print(f"{name:45s}{statistics.median(found[name]):12,.1f}{constant:12,.1f}")


if __name__ == "__main__":
    main()
