"""Every bad input has a test, every such test is of one that is listed, and really provokes it."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from bot.errors import UsageError
from store.errors import EmptyDocument
from tests.bad_input import EVIDENCE
from tests.evidence import gathered, lacking

FOLDER = Path(__file__).parent
CLAIMS = ("raises", "assert_")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def marked_tests() -> Iterator[tuple[Function, set[str]]]:
    """Yield every test of a bad input, with the names that it or its parameters are marked with."""
    for file in FOLDER.rglob("test_*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        constants = {
            ast.unparse(each.targets[0]): set(marks(each.value))
            for each in tree.body
            if isinstance(each, ast.Assign)
        }
        for node in ast.walk(tree):
            if isinstance(node, Function):
                names = {name for each in node.decorator_list for name in marks(each, constants)}
                if names:
                    yield node, names


def marks(
    expression: ast.expr, constants: Mapping[str, set[str]] = MappingProxyType({})
) -> set[str]:
    """Return the bad inputs that an expression names, itself or by a constant of its file."""
    found = set[str]()
    for each in ast.walk(expression):
        if isinstance(each, ast.Call) and ast.unparse(each.func).endswith("mark.bad_input"):
            found |= {ast.literal_eval(name) for name in each.args}
        elif isinstance(each, ast.Name):
            found |= constants.get(each.id, set())
    return found


def claims(node: Function) -> bool:
    """Return whether a test can fail by what it finds."""
    return any(
        isinstance(each, ast.Assert)
        or (isinstance(each, ast.Call) and ast.unparse(each.func).endswith(CLAIMS))
        for each in ast.walk(node)
    )


TESTED = frozenset(name for _, names in marked_tests() for name in names)


@pytest.mark.parametrize("name", EVIDENCE)
def test_every_bad_input_has_a_test_that_says_what_comes_of_it(name: str) -> None:
    assert name in TESTED


def test_every_test_of_a_bad_input_names_one_that_is_listed() -> None:
    assert set(EVIDENCE) >= TESTED


def test_every_test_of_a_bad_input_claims_something() -> None:
    assert [node.name for node, _ in marked_tests() if not claims(node)] == []


def test_a_test_that_does_not_provoke_its_bad_input_lacks_evidence(
    request: pytest.FixtureRequest,
) -> None:
    with gathered(request.node) as lines:
        UsageError("this is not about files")

    assert lacking(["an empty file"], lines) == ["an empty file"]


def test_an_error_that_was_made_is_evidence(request: pytest.FixtureRequest) -> None:
    with gathered(request.node) as lines:
        EmptyDocument("a.txt is empty")

    assert lacking(["an empty file"], lines) == []
    assert lacking(["an encrypted PDF"], lines) == ["an encrypted PDF"]


def test_gathering_leaves_errors_as_they_were(request: pytest.FixtureRequest) -> None:
    with gathered(request.node):
        pass

    assert str(EmptyDocument("a.txt is empty")) == "a.txt is empty"
    assert "__new__" not in vars(EmptyDocument)
