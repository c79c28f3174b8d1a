"""What the constants do by which a solve decides how far it trusts float32.

Each constant is made larger and smaller, the others left as they are. Every setting solves
the same hard problems: rows of many kinds (blurred images, whole numbers, nearly equal
columns) with eight step sizes, in the primal and in the dual form and as convolutions. The
table has how far directions are from those of a solve in float64 that knows nothing of the
package (by singular values), and how many were refined, made again in float64, or damped
(errors are those of the others). Both solve with the same rows and `D`, so errors are those
of the solve alone.

    python examples/rounding.py

It takes a few minutes. Errors are relative, in the norm of the whole direction.
"""

import argparse
import contextlib
import os
import unittest.mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from keras_proxprop import machine, solvers
from keras_proxprop.solvers import exact, factorization, inverse_factor
from keras_proxprop.tau import Tau
from parts.hard_problems import problems
from parts.results import markdown


def changes():
    """Returns `{what is changed: values}`, of the steps' constants and of memory's."""
    pivots = inverse_factor._SMALLEST_PIVOT
    tolerance, refinable = factorization._TOLERANCE, factorization._REFINABLE
    amplified = factorization._REFINABLE_AMPLIFICATION
    step = {
        (factorization, "_TOLERANCE"): [tolerance * f for f in (0.1, 0.3, 3, 10)],
        (factorization, "_ITERATIONS"): [0, 1, 4],
        (factorization, "_PROBES"): [1, 2, 8],
        (factorization, "_REFINABLE"): [refinable * f for f in (0, 0.1, 10)],
        (factorization, "_REFINABLE_AMPLIFICATION"): [amplified * f for f in (0.1, 10, 100)],
        (factorization, "_DAMPING"): [1e-10, 1e-6],
        (exact._Primal, "rounding"): [1e-6, 1e-4],
        (exact._Dual, "rounding"): [1e-7, 1e-5],
        (inverse_factor, "_SMALLEST_PIVOT"): [
            {**pivots, kind: pivots[kind] * f}
            for kind, f in (
                (tf.float32, 0.01),
                (tf.float32, 0.1),
                (tf.float32, 10),
                (tf.float64, 0.01),
                (tf.float64, 100),
            )
        ],
    }
    memory = {
        (factorization, "_FLOOR"): [1e-7, 1e-6, 1e-4],
        (factorization, "_IN_FLOAT32"): [
            factorization._IN_FLOAT32 * f for f in (0.1, 10, 100)
        ],
    }
    return step, memory


def error(p, expected):
    return np.linalg.norm(p - expected) / np.linalg.norm(expected)


@contextlib.contextmanager
def written_out():
    """Context in which the solvers' shared functions are plain Python, which reads a constant
    that was changed, and counts how often a solve was refined or made again."""
    counts = {"refined": 0, "float64": 0}

    def counted(name, function):
        def call(*args):
            counts[name] += 1
            return function(*args)

        return call

    with contextlib.ExitStack() as stack:
        for module in (inverse_factor, factorization, exact):
            for name, function in list(vars(module).items()):
                if hasattr(function, "__wrapped__"):
                    plain = function.__wrapped__
                    stack.enter_context(unittest.mock.patch.object(module, name, plain))
        for what, owner, name in (
            ("float64", factorization, "_in_float64"),
            ("float64", factorization, "_called_in_float64"),
            ("refined", exact._Primal, "_refined"),
        ):
            noted = counted(what, getattr(owner, name))
            stack.enter_context(unittest.mock.patch.object(owner, name, noted))
        yield counts


def quantiles(errors):
    return [f"{np.quantile(errors, share):.1e}" for share in (0.5, 0.9, 1)]


def of_steps(cases):
    """Returns the cells of a setting: errors of directions, and how they were made."""
    errors, damped = [], 0
    with written_out() as counts:
        for case in cases:
            solver = solvers.Exact(case.form)
            p, was = solver.solve(case.rows, tf.constant(case.d), Tau(case.tau))
            damped += bool(was)
            if not was:
                errors.append(error(tf.concat(p, axis=0).numpy(), case.expected))
    return [*quantiles(errors), str(counts["refined"]), str(counts["float64"]), str(damped)]


def of_memory(cases):
    """The same of the inverse that memory keeps, as it is made on a GPU without TF32."""
    moved, errors, damped = [], [], 0
    with written_out() as counts, machine.used(machine.GPU):
        for case in cases:
            gram, right = case.a.T @ case.a, case.a.T @ case.d
            inverse, was = factorization.floored_inverse(
                tf.constant(gram[None], tf.float32),
                tf.constant([[case.shift]], tf.float32),
                False,
            )
            p = inverse[0].numpy().astype(np.float64) @ right
            np.fill_diagonal(gram, np.diag(gram) + case.shift)
            np.fill_diagonal(gram, np.diag(gram) * (1 + factorization._FLOOR))
            floored = np.linalg.solve(gram, right)
            moved.append(error(floored, case.expected))
            errors.append(error(p, floored))
            damped += bool(was[0])
    found = [f"{np.median(moved):.1e}", *quantiles(errors)]
    return [*found, str(counts["float64"]), str(damped)]


def said(value, other):
    """Returns a value as text; of a dict only what differs from the other one."""
    if isinstance(value, dict):
        (kind,) = (kind for kind in value if value[kind] != other[kind])
        return f"{value[kind]:.2g} ({kind.name})"
    return f"{value:.2g}"


def table(measure, head, changes, cases):
    """Returns the table of what one change at a time does, in Markdown."""
    rows = [["as it is", "", *measure(cases)]]
    for (owner, name), values in changes.items():
        usual = getattr(owner, name)
        title = name if name.startswith("_") else f"{owner.__name__}.{name}"
        for value in values:
            with unittest.mock.patch.object(owner, name, value):
                cells = said(usual, value), said(value, usual)
                rows.append([f"`{title}`: {cells[0]}", cells[1], *measure(cases)])
            print(*rows[-1], sep="  ", flush=True)
    return markdown(["constant", "changed to", *head], rows)


def main():
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    cases = problems()
    whole = [case for case in cases if case.form == "primal"]
    steps, memory = changes()
    errors = ["error: median", "90 %", "largest"]
    head = [*errors, "refined", "float64", "damped"]
    steps = table(of_steps, head, steps, cases)
    memory = table(of_memory, ["moved by the floor", *errors, *head[-2:]], memory, whole)
    print(f"\nOf {len(cases)} steps:\n\n{steps}\n\nOf {len(whole)} inverses:\n\n{memory}")


if __name__ == "__main__":
    main()
