"""The command lines that the programs with results in a file have in common."""

import argparse
import pathlib

from parts import datasets


def parser(doc, dataset, seeds, quick, out):
    """Returns a parser of what programs that may be quick or compile with XLA understand.

    Args:
        doc, dataset, seeds, out: as in `parser_of_rows`.
        quick: what `--quick` does.
    """
    made = parser_of_rows(doc, dataset, seeds, out)
    made.add_argument("--jit", action="store_true", help="compile steps with XLA")
    made.add_argument("--quick", action="store_true", help=quick)
    return made


def parser_of_rows(doc, dataset, seeds, out):
    """Returns a parser of what all of them understand.

    Args:
        doc: the program's docstring.
        dataset, seeds, out: defaults of the arguments of these names.
    """
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--dataset", choices=datasets.DATASETS, default=dataset)
    made.add_argument("--seeds", type=int, default=seeds, help="how many seeds")
    made.add_argument("--report", action="store_true", help="train nothing")
    made.add_argument("--out", type=pathlib.Path, default=pathlib.Path(out))
    return made
