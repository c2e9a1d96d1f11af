"""The working folder of a run.

It holds conversations, as text and as tokens, so it is removed when the run ends. A folder that a
killed run left behind is removed by the next run.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = "runs"


@contextmanager
def run_folder(data_dir: Path, run_id: int) -> Iterator[Path]:
    """Create an empty folder for the only run that is running; remove all other runs' folders."""
    shutil.rmtree(data_dir / FOLDER, ignore_errors=True)
    folder = _folder(data_dir, run_id)
    # On a network disk the folder may still be there right after its removal.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        clear(data_dir, run_id)


def clear(data_dir: Path, run_id: int) -> None:
    """Remove the folder of a run that has ended, and no other run's, which may be running."""
    shutil.rmtree(_folder(data_dir, run_id), ignore_errors=True)


def _folder(data_dir: Path, run_id: int) -> Path:
    return data_dir / FOLDER / str(run_id)
