"""A training that is killed, in an epoch or in a checkpoint, resumes to the bit."""

import pathlib
import re
import subprocess
import sys

PROGRAM = pathlib.Path(__file__).with_name("killed_training.py")


def test_a_training_that_is_killed_again_and_again_ends_as_one_that_is_not():
    command = [sys.executable, PROGRAM, "--kills", "3"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    kills = re.findall(r"epoch \d+, (batch|array) \d+: signal 9", process.stdout)
    assert len(kills) == 3 and set(kills) == {"batch", "array"}
    arrays, different = re.search(r"(\d+) arrays, (\d+) of", process.stdout).groups()
    assert int(arrays) > 30 and int(different) == 0
