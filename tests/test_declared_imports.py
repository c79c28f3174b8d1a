"""Whatever a file of the repository imports is declared in pyproject.toml."""

import ast
import json
import pathlib
import re
import sys

import pytest

# It came with Python 3.11.
tomllib = pytest.importorskip("tomllib")
ROOT = pathlib.Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# {module: the distribution that it comes from}, where their names differ.
DISTRIBUTIONS = {"sklearn": "scikit-learn"}


def declared(requirements):
    names = {re.match(r"[\w.-]+", r)[0].lower().replace("_", "-") for r in requirements}
    return names | {"keras-proxprop"}


EXTRAS = PROJECT["project"]["optional-dependencies"]
PACKAGE = declared(PROJECT["project"]["dependencies"])
EXAMPLES = PACKAGE | declared(EXTRAS["examples"])
DECLARED = {
    "keras_proxprop": PACKAGE,
    "examples": EXAMPLES,
    "tests": EXAMPLES | declared(EXTRAS["test"]),
}
FILES = [p for folder in DECLARED for p in sorted((ROOT / folder).rglob("*.py"))]
FILES += sorted((ROOT / "examples").glob("*.ipynb"))


def source(path):
    if path.suffix == ".py":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


def imported(path):
    """Returns the top-level names of all modules that a file imports."""
    modules = []
    for node in ast.walk(ast.parse(source(path))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.append(node.module)
    return {module.split(".")[0] for module in modules}


def found(folder, name):
    return (folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists()


def is_local(path, name):
    """Returns whether a file finds a module of that name in this repository."""
    # A program's own folder, and what pytest adds for tests: theirs, and the examples'.
    folders = [ROOT / "examples"]
    if path.is_relative_to(ROOT / "tests"):
        folders += [p for p in path.parents if p.is_relative_to(ROOT / "tests")]
    return any(found(folder, name) for folder in folders)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_import_is_declared(path):
    names = DECLARED[path.relative_to(ROOT).parts[0]]
    if path.name == "kfac_worker.py":
        names = declared(PROJECT["dependency-groups"]["kfac"])
    if path.relative_to(ROOT).parts[1:] == ("reports", "plot.py"):
        names = names | declared(EXTRAS["plot"])
    if path.name.startswith("with_"):
        names = names | declared(EXTRAS["integrations"])
    missing = {
        name
        for name in imported(path) - sys.stdlib_module_names
        if DISTRIBUTIONS.get(name, name).replace("_", "-") not in names
        and not is_local(path, name)
    }
    assert not missing


def test_programs_lie_beside_the_package_of_their_parts():
    """So that Python finds it from any working directory, whatever is installed."""
    sources = {p: source(p) for p in FILES if p.is_relative_to(ROOT / "examples")}
    assert not [p for p, text in sources.items() if "sys.path" in text]
    programs = {p for p, text in sources.items() if "\nif __name__ ==" in text}
    # Another Python runs this one, in the folder that `parts` lies in.
    programs -= {ROOT / "examples" / "parts" / "kfac_worker.py"}
    assert {p.parent for p in programs} == {ROOT / "examples"}
