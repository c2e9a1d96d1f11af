"""A store to measure or show things in, thrown away afterwards."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store.database import Database
from store.settings import Settings, load_settings


@contextmanager
def scratch_settings(**overrides: object) -> Iterator[Settings]:
    """Settings over an empty data folder, its database at head.

    The converted model stays in the real data folder, so that it is converted only once.
    """
    models = (load_settings().data_dir / "models").absolute()
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ratchet-") as folder:
        (Path(folder) / "models").symlink_to(models)
        scratch = {"data_dir": Path(folder), "database_url": "", "chroma_url": ""}
        settings = load_settings(**scratch, **overrides)
        database = Database(settings.database)
        database.upgrade()
        database.close()
        yield settings
