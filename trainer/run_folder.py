"""The folder that a run works in; what a run that was killed left there goes with the next one.

It holds conversations, as tokens and as text: it must not stay.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = "runs"


@contextmanager
def run_folder(data_dir: Path, run_id: int) -> Iterator[Path]:
    """An empty folder for the one run that is under way; others', given up by now, go."""
    shutil.rmtree(data_dir / FOLDER, ignore_errors=True)
    folder = _folder(data_dir, run_id)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # a network disk is slow to let go
    try:
        yield folder
    finally:
        clear(data_dir, run_id)


def clear(data_dir: Path, run_id: int) -> None:
    """Remove what a run that has ended left; another's, which may be under way, stays."""
    shutil.rmtree(_folder(data_dir, run_id), ignore_errors=True)


def _folder(data_dir: Path, run_id: int) -> Path:
    return data_dir / FOLDER / str(run_id)
