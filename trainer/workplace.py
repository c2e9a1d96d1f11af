"""The folder that a run works in; what a run that was killed left there goes with the next one.

It holds conversations, as tokens and as text: it must not stay.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "run-"


@contextmanager
def run_folder(data_dir: Path) -> Iterator[Path]:
    """An empty folder for the one run that is under way."""
    clear(data_dir)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=data_dir) as folder:
        yield Path(folder)


def clear(data_dir: Path) -> None:
    """Remove what runs have left; none may be under way."""
    for folder in data_dir.glob(f"{PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)
