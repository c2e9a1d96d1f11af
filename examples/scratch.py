"""A temporary store, to measure or show things in."""

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from unittest.mock import patch

from store.database import Database
from store.people import People
from store.settings import PREFIX, Settings, load_settings, variable_of
from store.tables import SplitKeyRow
from trainer.worker import RUN_ENVIRONMENT

OPEN_GATE = {
    "train_drift_kl": 1e6,
    "gate_min_ratings": 4,
    "gate_preference": -1.0,
    "gate_preference_gain": -1.0,
    "gate_retention_drop": 1.0,
    "gate_drift_kl": 100.0,
    "gate_nll_rise": 100.0,
    "gate_degeneration_factor": 20.0,
}
"""Settings with which everything that can be measured passes the judge and the gate."""


@contextmanager
def scratch_settings(**overrides: object) -> Iterator[Settings]:
    """Yield settings over an empty data folder with its database at head and the real model.

    They are in the environment too, for processes that are started meanwhile. The working folder is
    the empty one, so that nobody's `.env` file counts there. The converted model stays in the real
    data folder, so that it is converted only once.
    """
    real = load_settings()
    models = real.storage.models_path.absolute()
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ratchet-") as folder, chdir(folder):
        (Path(folder) / "models").symlink_to(models)
        chosen = {
            "data_dir": folder,
            "model": real.engine.model,
            "embedder": real.retrieval.embedder,
            "device": real.engine.device,
            **overrides,
        }
        outside = {name: v for name, v in os.environ.items() if not name.startswith(PREFIX)}
        variables = {variable_of(name): str(value) for name, value in chosen.items()}
        with patch.dict(os.environ, {**outside, **variables}, clear=True):
            settings = load_settings()
            database = Database(settings.storage.database)
            database.upgrade()
            _split_as_always(database)
            database.close()
            yield settings


def _split_as_always(database: Database) -> None:
    """Hold out the same turns in every scratch store, so that what is measured there compares."""
    with database.session() as session:
        session.add(SplitKeyRow(id=1, key=b"", first_turn_id=0, first_imported_id=0))


def let_teach(url: str, people: Iterable[int]) -> None:
    """Let people have said yes to being learned from, as they do in Telegram with one tap."""
    database = Database(url)
    database.upgrade()
    for person_id in people:
        People(database).opt_out(person_id, False)
    database.close()


def as_a_run_is(module: str) -> None:
    """Restart `module` in the environment of a run's process, unless this is one."""
    if not RUN_ENVIRONMENT.items() <= os.environ.items():
        again = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, **RUN_ENVIRONMENT})
