"""Counts what tests run in processes of their own: Python imports this where it starts.

`.ci/run` puts this folder on the path of the tests. What the workers of pytest-xdist run is
counted by slipcover itself, which reads what they leave in a folder; it reads what these
processes leave there, too.
"""

import os


def count():
    """Counts lines and branches of the package from here on, and leaves them at the end."""
    import atexit
    import contextlib
    import json
    import pathlib

    import slipcover

    root = pathlib.Path(__file__).resolve().parents[2]
    sources = [str(root / source) for source in os.environ["SLIPCOVER_SOURCE"].split(",")]
    excluded = os.environ.get("SLIPCOVER_EXCLUDE_LINES", "").split("\n")
    # Without its sources, so that it doesn't look for files that this process never imports.
    counted = slipcover.Slipcover(
        branch=os.environ.get("SLIPCOVER_BRANCH") == "1",
        exclude_lines=[pattern for pattern in excluded if pattern],
    )
    slipcover.ImportManager(counted, slipcover.FileMatcher(sources=sources)).__enter__()

    def leave():
        # What a worker's file is called, which is what slipcover looks for.
        file = pathlib.Path(
            os.environ["SLIPCOVER_COVERAGE_DIR"], f"coverage-gw-of-{os.getpid()}.json"
        )
        # The folder is gone where this process outlives the tests.
        with contextlib.suppress(FileNotFoundError):
            whole = file.with_suffix(".part")
            whole.write_text(json.dumps(counted.get_coverage()))
            whole.rename(file)

    atexit.register(leave)


# Pytest says so while a test runs: a worker starts before any does.
if "SLIPCOVER_COVERAGE_DIR" in os.environ and "PYTEST_CURRENT_TEST" in os.environ:
    count()
