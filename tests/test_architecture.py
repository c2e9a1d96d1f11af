"""Rules of the architecture: who may import whom, what is imported when; the README is true."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("store", "bot", "trainer")
ARROWS = {
    "store": (),
    "migrations": ("store",),
    "bot/engine": ("store",),
    "bot": ("store",),
    "trainer": ("store", "bot.engine"),
    "loopback": (),
    "examples": (*PACKAGES, "loopback"),
    "benchmarks": (*PACKAGES, "loopback", "examples"),
}
"""Folders that each folder may import; tests may import everything, and nothing imports them."""

OURS = (*PACKAGES, "migrations", "loopback", "examples", "benchmarks", "tests")
SHIPPED = (*PACKAGES, "migrations", "loopback")
MAY_RECUR = ("__init__.py", "__main__.py", "errors.py")

HEAVY = ("torch", "transformers", "peft", "trl", "sentence_transformers", "chromadb")
HEAVY_ROOMS = (
    "bot/engine/",
    "trainer/passes/",
    "trainer/proving/evaluator.py",
    "trainer/tuning/checkpoint_judge.py",
    "trainer/tuning/checkpoints.py",
    "trainer/tuning/distillation.py",
    "trainer/tuning/finetune.py",
    "trainer/tuning/stages.py",
)


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(file: Path, *, top_level: bool = False) -> Iterator[str]:
    """Yield the modules that a file imports; with `top_level`, only those at its import."""
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


@pytest.mark.parametrize("folder", ARROWS)
def test_a_folder_imports_only_what_it_may(folder: str) -> None:
    allowed = (folder.replace("/", "."), *ARROWS[folder])

    wrong = [
        (file.relative_to(ROOT).as_posix(), module)
        for file in sources(folder)
        for module in imports(file)
        if module.partition(".")[0] in OURS
        and not any(belongs_to(module, each) for each in allowed)
    ]

    assert wrong == []


def test_every_folder_of_ours_says_what_it_may_import() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}

    assert folders == {*OURS}
    assert folders - {"tests"} == {folder for folder in ARROWS if "/" not in folder}


def test_no_two_files_that_are_shipped_have_the_same_name() -> None:
    files = [file for folder in SHIPPED for file in sources(folder)]
    names = Counter(file.name for file in files if file.name not in MAY_RECUR)

    assert [name for name, count in names.items() if count > 1] == []


ENGINES = ("bot.engine.local", "bot.engine.vllm")


def exported_by(package: str) -> set[str]:
    """Return the names in `__all__` of a package, read without importing it."""
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
    """Yield the names of everything that a file calls; of `A.of(...)` also `A`."""
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


def declared(*extras: str) -> set[str]:
    """Return the distributions that pyproject.toml requires, with these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["optional-dependencies"][extra] for extra in extras]
    requirements = [*project["dependencies"], *(each for some in lists for each in some)]
    return {canonical(re.split(r"[\[<>=!~; ]", each)[0]) for each in requirements}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    ("top_level", "extras"), [(True, ()), (False, ("charts",))], ids=["top level", "lazy"]
)
def test_every_package_that_is_imported_is_declared(
    top_level: bool, extras: tuple[str, ...]
) -> None:
    ours = {"store", "bot", "trainer", "migrations", "loopback"}
    names = {
        module.partition(".")[0]
        for package in ours
        for file in sources(package)
        for module in imports(file, top_level=top_level)
    }
    installed = packages_distributions()

    foreign = names - ours - sys.stdlib_module_names
    wanted = {name: {canonical(each) for each in installed.get(name, [name])} for name in foreign}

    assert {name for name in wanted if not wanted[name] & declared(*extras)} == set()


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    rooms = ("bot.cli.main", "bot.cli.terminal", "bot.cli.doctor", "trainer.worker")
    code = f"import sys, {', '.join(rooms)}; print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()

    # Few starts read documents, upgrade the database, or draw statistics.
    seldom = ("docx", "pypdf", "bs4", "alembic", "scipy", "matplotlib")
    assert [name for name in (*HEAVY, *seldom) if name in loaded] == []


def files_in_the_readme_of(package: str) -> set[str]:
    """Return every file that the tables of a package's README name, with its folder."""
    folder, named = package, set[str]()
    for line in (ROOT / package / "README.md").read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"## `(\S+)/`", line):
            folder = heading[1]
        if row := re.match(r"\| `(\S+\.\w+)` \|", line):
            named.add(f"{folder}/{row[1]}")
    return named


@pytest.mark.parametrize("package", ["store", "bot", "trainer", "loopback"])
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
