"""`docs/versions.md`, pyproject.toml and the README name the same versions."""

import re

import versions

PROJECT = (versions.ROOT / "pyproject.toml").read_text()
ROWS = versions.known_rows()


def minor(version):
    return tuple(map(int, version.split(".")[:2]))


def column(name):
    """Returns the versions of one thing in the rows of the page."""
    place = ["python", "keras", "tensorflow", "numpy"].index(name)
    return [minor(row[1 + place]) for row in ROWS.values()]


def test_the_page_is_as_the_script_writes_it_and_has_no_failure():
    assert list(ROWS) == list(versions.ENVIRONMENTS)
    assert versions.PAGE.read_text() == versions.page(ROWS)
    assert all(int(passed) and not int(failed) for *_, passed, failed, _ in ROWS.values())


def test_the_tests_of_the_fast_part_are_there():
    for test in sum(versions.FAST.values(), []):
        file, _, name = test.partition("::")
        text = (versions.ROOT / "tests" / file).read_text()
        assert f"\ndef {name.split('[')[0]}" in text


def test_the_bounds_are_the_oldest_and_the_newest_of_the_page():
    bounds = re.findall(r'"(keras|tensorflow)>=([\d.]+),<([\d.]+)"', PROJECT)
    assert len(bounds) == 2
    for name, oldest, above in bounds:
        assert min(column(name)) == minor(oldest)
        major, newest = max(column(name))
        assert (major, newest + 1) == minor(above)
    assert min(column("numpy")) == minor(re.search(r'"numpy>=([\d.]+)"', PROJECT)[1])
    python = minor(re.search(r'requires-python = ">=([\d.]+)"', PROJECT)[1])
    classifiers = re.findall(r"Python :: (3\.\d+)", PROJECT)
    assert min(column("python")) == min(map(minor, classifiers)) == python


def test_the_readme_says_which_versions():
    text = " ".join((versions.ROOT / "README.md").read_text().split())
    said = re.search(
        r"Python (\S+) or newer, Keras (\S+) to (\S+) and TensorFlow (\S+) to (\S+)", text
    )
    python, *rest = map(minor, said.groups())
    expected = [end(column(name)) for name in ("keras", "tensorflow") for end in (min, max)]
    assert python == min(column("python")) and rest == expected
