"""Runs the suite's fast part with older and newer versions, each in an environment of its own.

    python tests/versions.py            # all of ENVIRONMENTS; writes docs/versions.md
    python tests/versions.py 2.18       # one of them, and its row of that page

Environments are made in build/versions, and kept.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "versions.md"
# The suite's fast part: {what leans on Keras or TensorFlow: tests}.
FAST = {
    "what `keras_seams/` takes from the insides of Keras": [
        "keras_seams/test_what_keras_must_hold.py",
    ],
    "the loop that is exchanged under Keras's recurrent layers (`RNN.inner_loop`): outputs, "
    "states, masks,\n  dropout, and steps against the Jacobian of Keras's own cells": [
        "blocks/test_recurrent.py::test_a_stateful_layer_goes_on_where_it_was",
        "blocks/test_recurrent.py::test_dropout_of_inputs_is_the_layer_s_own",
        *(
            "blocks/test_recurrent.py::test_exact_step_is_a_dense_solve_with_the_jacobian_of_"
            f"keras_s_cell[{case}]"
            for case in ("rnn-backwards", "lstm-masked", "gru-masked-zeros")
        ),
        "blocks/test_recurrent_reports.py::"
        "test_a_layer_before_a_final_recurrent_one_steps_implicitly",
    ],
    "the outputs of every other layer that has a block": [
        "blocks/test_blocks.py::test_block_computes_what_its_layer_computes",
    ],
    "the tape": ["test_tape.py"],
    "`fit`": [
        "test_training.py::test_weights_of_samples_and_classes_are_in_the_step",
        "test_training.py::test_batchnorm_and_dropout_draw_and_update_once_a_step_as_with_adam",
        "test_training.py::test_loss_scaling_leaves_the_steps_as_they_are",
    ],
    "saved and copied models": [
        "citizen/test_by_name.py::test_a_config_with_the_name_makes_it_with_the_arguments",
        "citizen/test_saving.py::test_a_copy_has_the_optimizer_state_and_trains_on_alike",
    ],
    "Keras's callbacks": [
        "citizen/test_callbacks.py::test_backup_and_restore_continues_interrupted_training",
        "citizen/test_callbacks.py::"
        "test_swap_ema_weights_evaluates_the_average_and_gives_the_weights_back",
    ],
    "the default inside, `ScheduleFreeAdam`": [
        "optimizers/test_schedule_free_adam.py::"
        "test_steps_are_those_of_numpy_and_the_last_batch_is_smaller",
        "optimizers/test_schedule_free_adam.py::test_training_goes_on_to_the_bit_after_saving",
    ],
    "`tf.distribute`": [
        "citizen/test_distribution.py::test_two_replicas_make_the_step_of_the_global_batch",
        "citizen/test_distribution.py::"
        "test_the_mean_of_replicas_is_exact_where_their_rows_are_alike",
    ],
    "what is reported": [
        "reports/test_explanation.py::test_the_line_is_what_summary_says",
        "reports/test_summary_is_what_fit_runs.py::"
        "test_the_form_of_every_layer_is_the_one_that_fit_runs[convnet-default-False]",
    ],
}
# What these files and `conftest.py` import, beside the package and what that needs.
TESTED_WITH = ("hypothesis", "pytest", "tensorboard")
VERSIONS = """
import platform
from importlib.metadata import version
print(platform.python_version(), *map(version, ("keras", "tensorflow", "numpy")))
"""
HEAD = """# Versions

With which versions of Keras and TensorFlow the suite's fast part passes, each time in an
environment of its own. `python tests/versions.py` makes the environments, runs the tests, and
writes this page.

| environment | Python | Keras | TensorFlow | NumPy | passed | failed | skipped |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""
TAIL = """
The fast part tests:

{parts}

`lowest` is what `pyproject.toml` allows. Older versions of Keras fail with the replicas of a
`tf.distribute` strategy, whatever the optimizer. In Keras 3.9 and older `fit` and `evaluate`
report losses and metrics of replicas that are not those of the data (4.78 instead of 5.74 in a
small example). In Keras 3.7 and older the losses of replicas are not divided by the number of
replicas, so that they do not make the step of one device. Besides, Keras 3.5 and older keep
the masks of tensors in another place.

The newest versions of the table are the upper bounds, since a new version may change private
names that the package leans on. All of these are in `keras_proxprop/keras_seams/`.
"""


def lowest():
    """Returns the requirements and the Python that pyproject.toml names as the oldest."""
    text = (ROOT / "pyproject.toml").read_text()
    python = re.search(r'requires-python = ">=([\d.]+)"', text)[1]
    bounds = re.findall(r'"(keras|numpy|tensorflow)>=([\d.]+)', text)
    return [f"{name}=={version}.*" for name, version in bounds], python


# {environment: (requirements, Python)}; `None` is this one, as it is for one that is missing.
ENVIRONMENTS = {
    "lowest": lowest(),
    "2.18": (["keras==3.10.*", "tensorflow==2.18.*"], None),
    "2.19": (["keras==3.10.*", "tensorflow==2.19.*"], None),
    "newest": (["keras", "tensorflow"], None),
    "Python 3.12": (["keras", "tensorflow"], "3.12"),
    "Python 3.13": (["keras", "tensorflow"], "3.13"),
}


def environment(name, folder):
    """Makes an environment, or brings it up to date; returns its Python."""
    requirements, version = ENVIRONMENTS[name]
    python = folder / name / "bin" / "python"
    if not python.exists():
        base = version and shutil.which(f"python{version}")
        # It may be a stand-in for one that is not there.
        if not base or subprocess.run([base, "--version"]).returncode:
            base = sys.executable
        subprocess.run([base, "-m", "venv", folder / name], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # The package itself too, so that its own bounds are asked.
    subprocess.run([*pip, "--upgrade", *requirements, *TESTED_WITH, ROOT], check=True)
    return python


def row(name, python):
    """Runs the tests in an environment, and returns the cells of its row."""
    report = python.parents[1] / "report.xml"
    command = [python, "-m", "pytest", "-o", "addopts=", "-q", "-p", "no:cacheprovider"]
    tests = [f"tests/{test}" for part in FAST.values() for test in part]
    subprocess.run([*command, "--tb=short", f"--junitxml={report}", *tests], cwd=ROOT)
    suite = xml.parse(report).getroot().find("testsuite")
    total, failed, skipped = (
        sum(int(suite.get(kind)) for kind in kinds)
        for kinds in (["tests"], ["failures", "errors"], ["skipped"])
    )
    versions = subprocess.run([python, "-c", VERSIONS], check=True, stdout=subprocess.PIPE)
    return [name, *versions.stdout.decode().split(), total - failed - skipped, failed, skipped]


def page(rows):
    """Returns the text of the page.

    Args:
        rows: `{environment: cells}`; the order is that of `ENVIRONMENTS`.
    """
    lines = [f"| {' | '.join(map(str, rows[n]))} |\n" for n in ENVIRONMENTS if n in rows]
    parts = ";\n".join(f"- {part}" for part in FAST)
    return HEAD + "".join(lines) + TAIL.format(parts=f"{parts}.")


def known_rows():
    """Returns the rows of the page as it is."""
    lines = PAGE.read_text().splitlines() if PAGE.exists() else []
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return {row[0]: row for row in cells if row[0] in ENVIRONMENTS}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("environments", nargs="*", choices=[*ENVIRONMENTS, []])
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build" / "versions")
    args = parser.parse_args(argv)
    rows = known_rows()
    for name in args.environments or ENVIRONMENTS:
        rows[name] = row(name, environment(name, args.folder.resolve()))
        PAGE.write_text(page(rows))
    return 1 if any(int(cells[-2]) for cells in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
