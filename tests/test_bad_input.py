"""No bad input is without a test, and no test is for one that is not on the list."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bad_input import BAD_INPUT

NAMES = [name for names in BAD_INPUT.values() for name in names]


def marked(folder: Path) -> Iterator[str]:
    """What the tests of a folder are marked with."""
    for file in folder.rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func).endswith("bad_input"):
                        yield from (ast.literal_eval(each) for each in mark.args)


TESTED = frozenset(marked(Path(__file__).parent))


@pytest.mark.parametrize("name", NAMES)
def test_every_bad_input_has_a_test_that_says_what_comes_of_it(name: str) -> None:
    assert name in TESTED


def test_every_test_of_a_bad_input_names_one_that_is_listed() -> None:
    assert set(NAMES) >= TESTED
