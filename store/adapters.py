"""Adapters: rows, and directories that are known by their content.

Invariant: an adapter's files never change under its name, and at most one adapter is active.
"""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import func, select

from store.database import Database
from store.domain import Adapter, AdapterStatus
from store.errors import AdapterDamaged, AdapterNotFound
from store.tables import AdapterRow

FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What an adapter consists of, in the order in which it is hashed; PEFT's names."""

ADAPTERS_KEY = -1
"""Promotions take turns under this key; no Telegram chat has it as its id."""


class Adapters:
    """The adapters of one database, with their directories under one folder."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder

    def add(
        self,
        source: Path,
        *,
        base_model: str,
        run_id: int | None = None,
        metrics: Mapping[str, object] | None = None,
    ) -> Adapter:
        """Copy a finished adapter in, as a candidate. Raises `AdapterDamaged`.

        The copy is made aside and renamed, so a half-written directory is never seen.
        """
        sha256 = hash_adapter(source)
        with self._database.session() as session:
            self._database.take_turns(session, ADAPTERS_KEY)
            sequence = (session.scalar(select(func.max(AdapterRow.id))) or 0) + 1
            name = f"a{sequence}-{sha256[:8]}"
            path = self._folder / name
            aside = self._folder / f".{name}"
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            for file in FILES:
                shutil.copyfile(source / file, aside / file)
            shutil.rmtree(path, ignore_errors=True)  # of a crash before the row was committed
            aside.rename(path)
            row = AdapterRow(
                name=name,
                sha256=sha256,
                base_model=base_model,
                run_id=run_id,
                status=AdapterStatus.CANDIDATE,
                metrics=dict(metrics or {}),
                created_at=self._database.now(),
            )
            session.add(row)
            session.flush()
            return self._adapter(row)

    def get(self, name: str) -> Adapter:
        """The adapter of that name, its files checked.

        Raises `AdapterNotFound` or `AdapterDamaged`.
        """
        with self._database.reading() as session:
            row = session.scalars(select(AdapterRow).where(AdapterRow.name == name)).first()
            if row is None:
                raise AdapterNotFound(name)
            return _checked(self._adapter(row))

    def active(self) -> Adapter | None:
        """The adapter that replies are written with; None is the base model.

        Its files are not checked here, on the way of every reply, but when it is loaded.
        """
        with self._database.reading() as session:
            row = session.scalars(
                select(AdapterRow).where(AdapterRow.status == AdapterStatus.ACTIVE)
            ).first()
            return self._adapter(row) if row else None

    def activate(self, name: str | None) -> Adapter | None:
        """Make an adapter the active one, or with None go back to the base model.

        One transaction: there is never a moment with two. Raises `AdapterNotFound`.
        """
        with self._database.session() as session:
            self._database.take_turns(session, ADAPTERS_KEY)
            for old in session.scalars(
                select(AdapterRow).where(AdapterRow.status == AdapterStatus.ACTIVE)
            ):
                old.status = AdapterStatus.RETIRED
            session.flush()
            if name is None:
                return None
            row = session.scalars(select(AdapterRow).where(AdapterRow.name == name)).first()
            if row is None:
                raise AdapterNotFound(name)
            row.status = AdapterStatus.ACTIVE
            return self._adapter(row)

    def _adapter(self, row: AdapterRow) -> Adapter:
        return Adapter(
            name=row.name,
            sha256=row.sha256,
            base_model=row.base_model,
            path=str((self._folder / row.name).absolute()),
            run_id=row.run_id,
            status=AdapterStatus(row.status),
            metrics=row.metrics,
            created_at=row.created_at,
        )


def hash_adapter(folder: Path) -> str:
    """SHA-256 of an adapter's configuration and weights. Raises `AdapterDamaged`."""
    digest = hashlib.sha256()
    for name in FILES:
        try:
            digest.update((folder / name).read_bytes())
        except OSError as error:
            raise AdapterDamaged(f"the adapter in {folder} lacks {name}: {error}") from error
    return digest.hexdigest()


def _checked(adapter: Adapter) -> Adapter:
    if hash_adapter(Path(adapter.path)) != adapter.sha256:
        raise AdapterDamaged(
            f"the files of {adapter.name} were changed after it was made: do not use it"
        )
    return adapter
