"""What CI says of the lines and branches that tests run, those of their processes included."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODULE = "tests/mutation.py"
CODE = """
import sys
sys.path.insert(0, "tests")
import mutation, pathlib
try:
    mutation.Mutation("", "mutation.py", "no such text", "", "").apply(pathlib.Path("tests"))
except ValueError:
    print("said")
"""


def test_a_process_of_a_test_leaves_what_it_ran_and_says_nothing(tmp_path):
    environment = {
        "PYTHONPATH": str(ROOT / ".ci" / "counted"),
        "PYTEST_CURRENT_TEST": "this one",
        "SLIPCOVER_BRANCH": "1",
        "SLIPCOVER_COVERAGE_DIR": str(tmp_path),
        "SLIPCOVER_EXCLUDE_LINES": "",
        "SLIPCOVER_SOURCE": MODULE,
    }
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "said\n", "")
    # It is read by this name.
    (file,) = tmp_path.glob("coverage-gw*.json")
    left = json.loads(file.read_text())["files"]
    assert list(left) == [MODULE]
    source = (ROOT / MODULE).read_text().splitlines()
    ran = {source[line - 1].strip() for line in left[MODULE]["executed_lines"]}
    assert "source = path.read_text()" in ran
    missing = {source[line - 1].strip() for line in left[MODULE]["missing_lines"]}
    assert missing == {"path.write_text(source.replace(self.old, self.new))"}
    # Of the two ways on from its `if`, one.
    assert len(left[MODULE]["executed_branches"]) == len(left[MODULE]["missing_branches"]) == 1


@pytest.mark.parametrize("kind, fails", [(None, False), ("lines", True), ("branches", True)])
def test_less_than_the_least_of_lines_or_of_branches_fails(tmp_path, kind, fails):
    summary = {"percent_covered": 95.0}
    for each in ("lines", "branches"):
        missing = 6 if each == kind else 5
        summary |= {f"covered_{each}": 100 - missing, f"missing_{each}": missing}
    file = tmp_path / "coverage.json"
    file.write_text(json.dumps({"meta": {}, "files": {}, "summary": summary}))
    command = [sys.executable, ROOT / ".ci" / "coverage.py", file]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == fails, done.stderr
    if kind:
        assert f"Tests run 94.0 % of the {kind}; 95 % is the least." in done.stdout
