"""Breaks a formula of the package at a time, and shows the test that fails.

    python tests/mutations.py --only sign transposed
    python tests/mutations.py --out docs/mutations.md

Each mutation is made in a copy of the package, and names the tests to run, so that all take
minutes. The program fails where a mutation is not noticed, where a test fails without one, or
where a mutation no longer fits the source. What it prints is a table in Markdown.
"""

import argparse
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time

# Imported here once: each run is a copy of this process.
import keras  # noqa: F401
import pytest
import scipy.linalg  # noqa: F401
import tensorflow as tf  # noqa: F401
from mutation_cases import MUTATIONS

ROOT = pathlib.Path(__file__).resolve().parents[1]
HEAD = """# Formulas, each broken once

What was made wrong in the package, and the first test that fails then. This page is made
by `python tests/mutations.py --out docs/mutations.md`; a test keeps its rows the program's.
"""
TABLE = "| mutation | file | test that fails |\n|---|---|---|"


def run(mutation, tests, log):
    """Runs tests on a package with a mutation; returns the names of those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for part in ("keras_proxprop", "tests"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, folder / part, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", folder)
        if mutation is not None:
            mutation.apply(folder / "keras_proxprop")
        # TensorFlow starts its threads when it is first used: in the copy.
        pid = os.fork()
        if pid == 0:
            _test(folder, tests, log)
        _, status = os.waitpid(pid, 0)
    failed = re.findall(r"^FAILED (\S+)|^ERROR (\S+)", log.read_text(), re.MULTILINE)
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        raise RuntimeError(f"No test ran:\n{log.read_text()}")
    return [name or error for name, error in failed]


def _test(folder, tests, log):
    """Ends this process with the status of the tests."""
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.chdir(folder)
        sys.path[:0] = [str(folder)]
        file, _, expression = tests.partition(" ")
        (path,) = pathlib.Path("tests").rglob(file)
        arguments = [str(path), "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        arguments += ["-o", "addopts="] + (["-k", expression] if expression else [])
        os._exit(pytest.main(arguments))
    finally:
        os._exit(9)


def row(mutation, failed):
    """Returns a mutation and the first test that failed, a row of the table."""
    cells = (mutation.name, f"`{mutation.file}`", f"`{failed}`" if failed else "NOT NOTICED")
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=[""], help="parts of names")
    parser.add_argument("--out", type=pathlib.Path, help="a file for the page of all rows")
    args = parser.parse_args()
    chosen = [m for m in MUTATIONS if any(part in m.name for part in args.only)]
    wrong, rows, begin = 0, {}, time.monotonic()
    print(TABLE, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder, "log")
        for tests in dict.fromkeys(m.tests for m in chosen):
            for name in run(None, tests, log):
                print(f"fails without a mutation: {name}", file=sys.stderr, flush=True)
                wrong += 1
            for mutation in (m for m in chosen if m.tests == tests):
                failed = run(mutation, tests, log)
                wrong += not failed
                rows[mutation.name] = row(mutation, failed[0] if failed else None)
                print(rows[mutation.name], flush=True)
    if args.out is not None:
        table = [rows[mutation.name] for mutation in chosen]
        args.out.write_text("\n".join([HEAD, TABLE, *table]) + "\n")
    seconds = time.monotonic() - begin
    print(f"{len(chosen)} mutations, {wrong} faults, {seconds:.0f} s", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
