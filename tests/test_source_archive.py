"""The source archive has what the tests read, so that they run from it."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_the_source_archive_has_every_file_of_the_repository(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("Only a clone knows which files are the repository's.")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    tracked = set(listed.stdout.decode().splitlines()) - {".gitignore"}
    # What `sdist` asks, too: the list of files by MANIFEST.in, pyproject.toml and setup.py.
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True)
    (sources,) = tmp_path.glob("*.egg-info/SOURCES.txt")
    archived = set(sources.read_text().splitlines())
    assert not tracked - archived
