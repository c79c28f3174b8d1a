"""The program that trains on one device and on several."""

import pathlib
import re
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).parents[2] / "examples" / "distributed.py"


@pytest.mark.parametrize("way", ["devices", "workers"])
def test_two_end_with_the_weights_of_one(way):
    command = [sys.executable, PROGRAM, f"--{way}", "2"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    one, several = process.stdout.splitlines()
    assert one.startswith("one device: ") and several.startswith(f"2 {way}: ")
    sent, apart = re.search(
        r"([\d,]+) bytes a step, largest difference (\S+)", several
    ).groups()
    assert int(sent.replace(",", "")) > 0 and float(apart) < 1e-4
