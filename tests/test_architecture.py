"""The house's rules: who may import whom, what is imported when, and that the README is true."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "peft", "trl", "sentence_transformers", "chromadb")
HEAVY_ROOMS = (
    "bot/engine/",
    *("trainer/anchor.py", "trainer/attention.py", "trainer/evaluate.py", "trainer/finetune.py"),
    *("trainer/frozen.py", "trainer/head.py", "trainer/judge.py", "trainer/odds.py"),
    *("trainer/scoring.py", "trainer/stages.py"),
)


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(file: Path, *, top_level: bool = False) -> Iterator[str]:
    """Every module that a file imports; with `top_level`, those that importing it imports."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def belongs_to(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("store", ("bot", "trainer", "migrations")),
        ("bot", ("trainer",)),
        ("trainer", ("migrations",)),
        ("migrations", ("bot", "trainer")),
    ],
)
def test_no_package_imports_one_above_it(package: str, forbidden: tuple[str, ...]) -> None:
    wrong = [
        (file.relative_to(ROOT).as_posix(), module)
        for file in sources(package)
        for module in imports(file)
        if any(belongs_to(module, each) for each in forbidden)
    ]

    assert wrong == []


def test_the_engine_imports_nothing_else_of_the_bot() -> None:
    wrong = [
        (file.name, module)
        for file in sources("bot/engine")
        for module in imports(file)
        if belongs_to(module, "bot") and module != "bot" and not belongs_to(module, "bot.engine")
    ]

    assert wrong == []


def test_the_trainer_imports_nothing_of_the_bot_but_its_engine() -> None:
    wrong = [
        (file.name, module)
        for file in sources("trainer")
        for module in imports(file)
        if belongs_to(module, "bot") and module != "bot" and not belongs_to(module, "bot.engine")
    ]

    assert wrong == []


def test_nothing_heavy_is_imported_outside_the_rooms_for_it() -> None:
    wrong = [
        (file.relative_to(ROOT).as_posix(), module)
        for package in ("store", "bot", "trainer")
        for file in sources(package)
        if not file.relative_to(ROOT).as_posix().startswith(HEAVY_ROOMS)
        for module in imports(file, top_level=True)
        if module.partition(".")[0] in HEAVY
    ]

    assert wrong == []


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys, bot.cli, bot.terminal, bot.doctor, trainer.worker; print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()

    seldom = ("docx", "pypdf", "bs4", "alembic")  # few starts read documents, or upgrade anything
    assert [name for name in (*HEAVY, *seldom) if name in loaded] == []


def tree_in_the_readme() -> set[str]:
    """Every path that the README's tree names."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"## What lies where\n+```\n(.*?)```", readme, re.DOTALL)
    assert block is not None
    paths, above = set(), list[str]()
    for line in block[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        above = [*above[:depth], line.split()[0]]
        paths.add("".join(above))
    return paths


def test_the_readmes_tree_is_the_tree() -> None:
    unlisted = ("__init__.py", "__pycache__", "py.typed")

    existing = {
        path.relative_to(ROOT).as_posix() + ("/" if path.is_dir() else "")
        for folder in ("store", "bot", "bot/engine", "bot/telegram", "trainer")
        for path in (ROOT / folder).iterdir()
        if path.name not in unlisted
    }
    folders = {f"{each}/" for each in ("migrations", "tests", "benchmarks", "examples", "docs")}

    assert tree_in_the_readme() == existing | folders | {"store/", "bot/", "trainer/"}
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_every_make_target_that_the_readme_names_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))

    assert set(re.findall(r"(?:^|`)make ([a-z]+)", readme, re.MULTILINE)) <= targets
