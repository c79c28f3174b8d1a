"""Every mutation fits the source, and the page says of each which test notices it."""

import ast
import pathlib
import re

import pytest
from mutation_cases import MUTATIONS

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "mutations.md"
ROW = re.compile(r"^\| (.*) \| `(.*)` \| `(.*)` \|$", re.MULTILINE)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_a_mutation_is_of_one_place_that_is_there(mutation):
    source = (ROOT / "keras_proxprop" / mutation.file).read_text()
    assert source.count(mutation.old) == 1
    ast.parse(source.replace(mutation.old, mutation.new))


def test_the_page_has_a_row_for_each_and_names_tests_that_are_there():
    rows = ROW.findall(PAGE.read_text())
    assert [row[:2] for row in rows] == [(m.name, m.file) for m in MUTATIONS]
    for _, _, test in rows:
        file, name = re.fullmatch(r"(.*)::(\w+)(?:\[.*)?", test).groups()
        assert f"def {name}(" in (ROOT / file).read_text()
