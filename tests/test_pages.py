"""README and docs: what can be read in them is so, and can be read anywhere."""

import ast
import importlib.util
import inspect
import pathlib
import re
import textwrap

import pytest

import keras_proxprop

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\((?!https?://|#)([^)#]+)")
CODE = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def setup_file():
    spec = importlib.util.spec_from_file_location("setup_of_keras_proxprop", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def named(node):
    """Returns `a.b.c` of an expression that is a name in a name."""
    if isinstance(node, ast.Attribute) and (of := named(node.value)):
        return f"{of}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else None


def public(name):
    value = keras_proxprop
    for part in name.split(".")[1:]:
        value = getattr(value, part)
    return value


def test_the_readme_is_short():
    assert len(README.read_text().split()) <= 900


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_to_files(page):
    targets = LINK.findall(page.read_text())
    assert not [target for target in targets if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_code_uses_public_names_with_the_arguments_that_they_have(page):
    for code in CODE.findall(page.read_text()):
        for node in ast.walk(ast.parse(textwrap.dedent(code))):
            name = named(node) or ""
            if name.startswith("keras_proxprop."):
                assert public(name) is not None
            called = named(node.func) if isinstance(node, ast.Call) else None
            if called and called.startswith("keras_proxprop."):
                known = inspect.signature(public(called)).parameters
                anything = any(p.kind is p.VAR_KEYWORD for p in known.values())
                given = {k.arg for k in node.keywords if k.arg}
                assert anything or given <= set(known)


def test_the_readme_shows_every_argument_of_the_optimizer_and_its_default():
    calls = [n for code in CODE.findall(README.read_text()) for n in ast.walk(ast.parse(code))]
    shown = [n for n in calls if isinstance(n, ast.Call) and len(n.keywords) > 4]
    (call,) = [n for n in shown if named(n.func) == "keras_proxprop.ProxProp"]
    arguments = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    known = inspect.signature(keras_proxprop.ProxProp).parameters
    known = {k: p.default for k, p in known.items() if p.default is not p.empty}
    known.pop("name")
    assert arguments == known


def test_every_public_name_has_a_place_in_the_reference():
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    found = re.findall(r"^::: keras_proxprop\.(.+)$", pages, re.M)
    expected = set(keras_proxprop.__all__) - {"__version__", "solvers"}
    expected |= {f"solvers.{name}" for name in keras_proxprop.solvers.__all__}
    blocks = keras_proxprop.blocks.__all__
    expected |= {f"blocks.{name}" for name in blocks if name.endswith("Block")}
    assert set(found) == expected
    assert all(public(f"keras_proxprop.{name}").__doc__ for name in found)


@pytest.mark.parametrize("source", [None, "https://example.com/a/b/"])
def test_links_of_the_page_on_a_package_index_are_addresses(source):
    page = setup_file().long_description(README.read_text(), source)
    assert not LINK.findall(page)
    links = re.findall(r"!?\[[^\]]*\]\(([^)]+)\)", page)
    assert links and all(link.startswith("https://") for link in links)
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page)
    picture = (
        "https://example.com/a/b/raw/main/examples/benchmarks/everyday/everyday_curves.png"
    )
    assert pictures == ([] if source is None else [picture])
    # The texts of all links are there.
    for text in re.findall(r"(?<!!)\[([^\]]*)\]\(", README.read_text()):
        assert text in page


def test_the_version_is_one():
    version = keras_proxprop.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (.+)$", changes, re.M)[0] in ("Unreleased", version)


def test_the_package_says_that_it_has_types():
    assert pathlib.Path(keras_proxprop.__file__).with_name("py.typed").exists()
