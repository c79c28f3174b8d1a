import pathlib
import sys

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
for folder in (EXAMPLES, EXAMPLES / "benchmarks", EXAMPLES / "paper"):
    sys.path.insert(0, str(folder))
