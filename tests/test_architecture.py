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
    "trainer/passes/",
    "trainer/proving/evaluator.py",
    "trainer/tuning/checkpoint_judge.py",
    "trainer/tuning/distillation.py",
    "trainer/tuning/finetune.py",
    "trainer/tuning/stages.py",
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


ENGINES = ("bot.engine.local", "bot.engine.vllm")


def exported_by(package: str) -> set[str]:
    """The names in `__all__` of a package, read without importing it."""
    file = ROOT / package.replace(".", "/") / "__init__.py"
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_is_imported_by_its_door_only(engine: str) -> None:
    inside = (engine.replace(".", "/") + "/", "tests/engine/")
    exported = exported_by(engine)
    files = {
        file.relative_to(ROOT).as_posix(): file
        for folder in ("bot", "trainer", "benchmarks", "examples", "loopback", "tests")
        for file in sources(folder)
    }

    wrong = [
        (name, found)
        for name, file in files.items()
        if not name.startswith(inside)
        for found in imports(file)
        if found.startswith(engine + ".") and found.removeprefix(engine + ".") not in exported
    ]

    assert exported
    assert wrong == []


@pytest.mark.parametrize("module", ["bot.engine", "bot.engine.base", "bot.engine.errors"])
def test_importing_what_every_engine_shares_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()

    assert [name for name in HEAVY if name in loaded] == []


def test_only_repositories_import_the_tables() -> None:
    wrong = [
        (file.relative_to(ROOT).as_posix(), module)
        for file in sources("bot")
        for module in imports(file)
        if belongs_to(module, "store.tables")
    ]

    assert wrong == []


BUILT = {
    "Adapters",
    "AuditEntries",
    "ChromaIndex",
    "Conversations",
    "Database",
    "Documents",
    "Eraser",
    "Examples",
    "Exports",
    "Groups",
    "Indexer",
    "Invitations",
    "LocalEngine",
    "Memories",
    "People",
    "Ratings",
    "Runs",
    "SentenceEmbedder",
    "Statistics",
    "StatusReader",
    "Suspects",
    "Teaching",
    "Updates",
    "VllmEngine",
}
"""Repositories, engines and embedders."""

BUILDERS = (
    "bot/app.py",
    "trainer/worker.py",
    "trainer/run.py",
    "trainer/tuning/launch.py",  # a process of its own when several devices train
    "trainer/proving/comparison.py",  # its engine over the weights of one candidate
)
"""The composition roots."""


def calls(file: Path) -> Iterator[str]:
    """The names of everything that a file calls; of `A.of(...)` also `A`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Attribute):
                called = called.value
            if isinstance(called, ast.Name):
                yield called.id


def test_only_the_composition_roots_build_things() -> None:
    wrong = [
        (file.relative_to(ROOT).as_posix(), name)
        for package in ("bot", "trainer")
        for file in sources(package)
        if file.relative_to(ROOT).as_posix() not in BUILDERS
        for name in calls(file)
        if name in BUILT
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
    rooms = "bot.cli.main, bot.cli.terminal, bot.cli.doctor, trainer.worker"
    code = f"import sys, {rooms}; print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()

    seldom = ("docx", "pypdf", "bs4", "alembic")  # few starts read documents, or upgrade anything
    assert [name for name in (*HEAVY, *seldom) if name in loaded] == []


def files_in_the_readme_of(package: str) -> set[str]:
    """Every file that the tables of a package's README name, with its folder."""
    folder, named = package, set[str]()
    for line in (ROOT / package / "README.md").read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"## `(\S+)/`", line):
            folder = heading[1]
        if row := re.match(r"\| `(\S+\.\w+)` \|", line):
            named.add(f"{folder}/{row[1]}")
    return named


@pytest.mark.parametrize("package", ["store", "bot", "trainer"])
def test_the_readme_of_a_package_names_every_file_of_it(package: str) -> None:
    existing = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".jsonl") and path.name != "__init__.py"
    }

    assert files_in_the_readme_of(package) == existing


def test_the_readme_names_every_folder() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tracked = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.splitlines()

    folders = {name.partition("/")[0] for name in tracked if "/" in name and name[0] != "."}

    assert set(re.findall(r"^\| \[?`(\w+)/`", readme, re.MULTILINE)) == folders


def test_every_make_target_that_the_readme_names_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))

    assert set(re.findall(r"(?:^|`)make ([a-z]+)", readme, re.MULTILINE)) <= targets
