"""Prints which lines and branches of the package no test runs, and fails where they are many.

Usage: coverage.py FILE, what `slipcover --json --out FILE` has written.
"""

import json
import pathlib
import sys

import slipcover

LEAST = 95
WIDTH = 60


def shares(summary):
    """Returns `{kind: percents that tests run}` of a summary of slipcover."""
    found = {}
    for kind in ("lines", "branches"):
        run, missing = summary[f"covered_{kind}"], summary[f"missing_{kind}"]
        found[kind] = 100 * run / (run + missing)
    return found


def main(file):
    coverage = json.loads(pathlib.Path(file).read_text())
    slipcover.print_coverage(coverage, skip_covered=True, missing_width=WIDTH)
    few = []
    for kind, share in shares(coverage["summary"]).items():
        print(f"Tests run {share:.1f} % of the {kind}; {LEAST} % is the least.")
        few += [kind] if share < LEAST else []
    return 1 if few else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
