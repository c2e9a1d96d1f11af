"""Claims of the docs: tests, files, commands, settings and figures that they name are there."""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from benchmarks import tables
from bot.cli.main import cli
from bot.cli.terminal import HELP
from bot.telegram.commands import NAMES
from store.documents.parser import SUFFIXES
from store.settings import NAMES as SETTINGS
from store.settings import PREFIX

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = (
    README,
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("bot", "store", "trainer", "loopback")),
)
LOG = ROOT / "docs" / "experiments.md"
"""A dated log, whose figures and runs belong to their day."""

MOST_LINES = 200
MOST_WORDS_IN_A_CELL = 30

TOP_FOLDERS = "bot|store|trainer|migrations|loopback|tests|benchmarks|examples|docs"
PATH = re.compile(rf"(?<![\w/.-])((?:{TOP_FOLDERS})/[\w./-]*\w|Makefile|[\w-]+\.toml)(?![\w/])")
MADE = frozenset({"benchmarks/measured"})
"""Folders that exist only after something has run."""

COMMAND = re.compile(r"(?:^|[`/ ])ratchet (?=[a-z])([^`\n|]*)")
TELEGRAM = re.compile(r"`/([a-z]+)(?=[ `])")
MAKE = re.compile(r"(?:^|`|make )make ([a-z]+)", re.MULTILINE)
MODULE = re.compile(r"python -m ([\w.]+)")
SETTING = re.compile(rf"{PREFIX}([A-Z_]+)")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[\w-]*)?\)")
FUNCTION = re.compile(r"`(\w+(?:/\w+)+\.py)`, `([\w.]+)`")
IN_BRACKETS = re.compile(r"`([\w.]+)`\s\(`([\w/]+\.py)`\)|\(`([\w.]+)`,\s`([\w/]+\.py)`\)")
ENDPOINTS = ("healthz", "readyz", "metrics")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def cited_tests(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the tests that a page cites, with their files; `…::name` is of the file before."""
    file = ""
    for path, name in re.findall(r"`(tests/[\w/]+\.py|…)(?:::(\w+))?`", text_of(page)):
        file = file if path == "…" else path
        if name:
            yield file, name


@cache
def names_in(file: str) -> frozenset[str]:
    """Return functions, classes and constants of a file; methods as `Class.method`."""
    found = set[str]()
    for node in ast.parse(text_of(ROOT / file)).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {each.id for each in node.targets if isinstance(each, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.ClassDef):
            found.add(node.name)
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    found.add(f"{node.name}.{inner.name}")
                elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                    found.add(f"{node.name}.{inner.target.id}")
    return frozenset(found)


def benchmarks() -> Iterator[str]:
    """Yield every module of `benchmarks/` that can be run."""
    for file in (ROOT / "benchmarks").glob("*.py"):
        if '__name__ == "__main__"' in text_of(file):
            yield f"benchmarks.{file.stem}"
    for file in (ROOT / "benchmarks").glob("*/__main__.py"):
        yield f"benchmarks.{file.parent.name}"


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that words name, and the words that remain."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    return command, words


def every_command(command: click.Command = cli, name: str = "ratchet") -> Iterator[str]:
    """Yield every command that does something, by its full name."""
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield name
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from every_command(inner, f"{name} {inner.name}")


def options_of(command: click.Command) -> set[str]:
    options = [param for param in command.params if isinstance(param, click.Option)]
    return {"--help", *(each for option in options for each in option.opts)}


def on_pages(*pages: Path) -> pytest.MarkDecorator:
    names = [page.relative_to(ROOT).as_posix() for page in pages]
    return pytest.mark.parametrize("page", pages, ids=names)


on_every_page = on_pages(*PAGES)


@on_every_page
def test_every_test_that_is_cited_exists(page: Path) -> None:
    missing = [(file, name) for file, name in cited_tests(page) if name not in names_in(file)]

    assert missing == []


@on_every_page
def test_every_path_exists(page: Path) -> None:
    paths = {path.rstrip(".") for path in PATH.findall(text_of(page))}

    assert [path for path in sorted(paths - MADE) if not (ROOT / path).exists()] == []


@on_every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    links = LINK.findall(text_of(page))

    assert [link for link in links if not (page.parent / link).exists()] == []


@on_every_page
def test_every_function_is_in_the_file_that_it_is_said_to_be_in(page: Path) -> None:
    said = set(FUNCTION.findall(text_of(page)))
    for name, file, other_name, other_file in IN_BRACKETS.findall(text_of(page)):
        said.add((file or other_file, name or other_name))

    assert [(file, name) for file, name in sorted(said) if name not in names_in(file)] == []


@on_every_page
def test_every_command_and_option_exists(page: Path) -> None:
    wrong = []
    for said in COMMAND.findall(text_of(page)):
        words = re.split(r"\s{2,}|\s[#…]|[;,)]", said)[0].split()
        command, rest = command_of(words)
        options = {word.partition("=")[0] for word in rest if word.startswith("--")}
        unknown = isinstance(command, click.Group) and options != set(rest)
        if unknown or not options <= options_of(command):
            wrong.append(said)

    assert wrong == []


@on_every_page
def test_every_telegram_command_exists(page: Path) -> None:
    terminal = set(re.findall(r"/([a-z]+)", HELP))

    said = set(TELEGRAM.findall(text_of(page)))

    assert said <= {*NAMES, *terminal, *ENDPOINTS}


@on_every_page
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), re.MULTILINE))

    assert set(MAKE.findall(text_of(page))) <= targets


@on_every_page
def test_every_module_that_is_run_can_be_run(page: Path) -> None:
    missing = []
    for module in set(MODULE.findall(text_of(page))):
        file = ROOT / (module.replace(".", "/") + ".py")
        if not file.exists() and not (file.with_suffix("") / "__main__.py").exists():
            missing.append(module)

    assert missing == []


@on_every_page
def test_every_setting_exists(page: Path) -> None:
    said = {name.lower() for name in SETTING.findall(text_of(page))}

    assert said <= SETTINGS


@on_every_page
def test_the_tables_of_figures_are_as_their_files_say(page: Path) -> None:
    assert tables.filled(text_of(page)) == text_of(page)


@on_pages(*(page for page in PAGES if page != LOG))
def test_a_cell_of_a_table_is_short(page: Path) -> None:
    cells = [
        cell.strip()
        for line in text_of(page).splitlines()
        if line.startswith("|")
        for cell in line.strip("|").split("|")
    ]

    assert [cell for cell in cells if len(cell.split()) > MOST_WORDS_IN_A_CELL] == []


def test_the_readme_is_short() -> None:
    assert len(text_of(README).splitlines()) <= MOST_LINES


def test_the_readme_names_every_kind_of_document_that_can_be_read() -> None:
    [said] = re.findall(r"It reads `([^`]*)`", text_of(README))

    assert {*said.split(), ".htm"} == SUFFIXES  # another name for .html


def test_the_list_of_commands_is_complete() -> None:
    page = text_of(ROOT / "docs" / "commands.md")

    missing = [name for name in every_command() if not re.search(rf"^\| `{name}[ `]", page, re.M)]
    unsaid = [name for name in NAMES if f"`/{name}" not in page]
    commands = [command_of(name.split()[1:])[0] for name in every_command()]
    options = {each for command in commands for each in options_of(command)}

    assert missing == []
    assert unsaid == []
    assert [each for each in options if each not in page] == []


def test_every_page_is_named_in_the_readme() -> None:
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}

    assert pages <= set(LINK.findall(text_of(README)))


def test_every_file_of_figures_is_quoted_and_whole() -> None:
    quoted = {name for page in tables.pages() for name in tables.names(text_of(page))}
    files = {file.stem for file in tables.RESULTS.glob("*.json")}

    assert files == quoted
    for file in tables.RESULTS.glob("*.json"):
        found = json.loads(text_of(file))
        assert set(found) == {"command", "date", "machine", "columns", "rows"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])


def test_the_page_on_performance_lists_every_benchmark_and_says_what_make_bench_runs() -> None:
    recipe = text_of(ROOT / "Makefile").partition("\nbench:")[2].partition("\n\n")[0]
    rows = re.findall(
        r"^\| `python -m (\S+)` \| (yes|no) \|", text_of(ROOT / "docs/performance.md"), re.M
    )

    assert {name for name, run in rows if run == "yes"} == set(MODULE.findall(recipe))
    assert {name for name, _ in rows} == set(benchmarks()) - {"benchmarks.tables"}


def test_every_figure_for_monitoring_exists() -> None:
    source = text_of(ROOT / "bot" / "reports" / "metrics.py")

    said = set(re.findall(r"`(ratchet_\w+)", text_of(ROOT / "docs" / "operations.md")))

    assert said
    assert [name for name in said if name.removesuffix("_total") not in source] == []
