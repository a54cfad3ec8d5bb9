"""Every fault of the catalogue has a test that is marked with its id, and `-k cases` runs all of these."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.cases.catalogue import CASES, OTHERS

TESTS = Path(__file__).parents[1]


def marked() -> dict[str, list[str]]:
    """Id → the tests, or the files, that carry it as a mark or in their name, from their source."""
    found = defaultdict(list)
    for path in TESTS.rglob("test_*.py"):
        if path == Path(__file__):  # its marks are of no fault
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (by_name := re.match(r"test_case_([a-z]\d+)_", node.name)):
                found[by_name[1].upper()].append(node.name)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.case":
                for argument in node.args:
                    found[ast.literal_eval(argument)].append(path.name)
    return found


def test_every_fault_of_the_catalogue_has_a_test():
    assert CASES.keys() - marked().keys() == set()


def test_no_test_names_a_fault_that_the_catalogue_does_not_have():
    assert [name for name in marked() if name not in CASES and not OTHERS.fullmatch(name)] == []


@pytest.mark.case("P1", "X7")
def test_the_words_cases_and_case_with_an_id_choose_marked_tests(request):
    words = request.node.extra_keyword_matches
    assert {"cases", "case_P1_", "case_X7_"} <= words
    assert not {word for word in words if word.startswith("case_")} - {"case_P1_", "case_X7_"}
    for other in request.session.items:
        ids = {i for mark in other.iter_markers("case") for i in mark.args}
        assert {f"case_{i}_" for i in ids} | ({"cases"} if ids else set()) <= other.extra_keyword_matches
        assert ids or not any(word.startswith("case_") for word in other.extra_keyword_matches)
