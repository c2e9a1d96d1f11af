"""The wheel, installed outside the checkout: it holds what was written."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("store", "bot", "migrations")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of what is in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(source)],
        check=True,
        capture_output=True,
        timeout=200,
    )
    [built] = out.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_and_migration_and_nothing_else(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}

    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".mako", ".typed")
    }
    assert packed == expected


@pytest.mark.slow
def test_an_empty_environment_needs_the_wheel_and_what_is_locked_alone(
    wheel: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
    lock = ["--require-hashes", "--requirement", str(ROOT / "requirements" / "all.txt")]
    subprocess.run([*pip, *lock], check=True)
    subprocess.run([*pip, str(wheel)], check=True)

    for arguments in (["db", "upgrade"], ["doctor"], ["chat", "--once", "Hello", "--json"]):
        subprocess.run(
            [str(environment / "bin" / "ratchet"), *arguments],
            check=True,
            cwd=tmp_path,
            env={**os.environ, "RATCHET_DATA_DIR": str(tmp_path / "data")},
        )
