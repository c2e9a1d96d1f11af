"""Databases migrated once and emptied for each test, a Chroma server, and the real embedder."""

import os
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from store.database import Clock, Database
from store.embedder import SentenceEmbedder
from store.tables import Base

START_SECONDS = 30


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SQLite file at head, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "ratchet.db"
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    database.close()
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres_url: str) -> str:
    """Return the URL of a Postgres database at head, to be emptied."""
    url = make_url(postgres_url).set(drivername="postgresql+psycopg")
    server = create_engine(url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text("ALTER SYSTEM SET fsync = off"))  # no power cut is survived here
        connection.execute(text("SELECT pg_reload_conf()"))
        connection.execute(text("CREATE DATABASE store"))
    server.dispose()
    database = Database(url.set(database="store").render_as_string(hide_password=False))
    database.upgrade()
    database.close()
    return database.url


@pytest.fixture
def sqlite(migrated_sqlite: Path, tmp_path: Path, clock: Clock) -> Iterator[Database]:
    """Yield a SQLite database at head, for tests to which the kind does not matter."""
    path = shutil.copyfile(migrated_sqlite, tmp_path / "ratchet.db")
    database = Database(f"sqlite:///{path}", clock=clock)
    yield database
    database.close()


@pytest.fixture
def postgres(migrated_postgres: str, clock: Clock) -> Iterator[Database]:
    """Yield a Postgres database at head."""
    database = Database(migrated_postgres, clock=clock)
    tables = ", ".join(Base.metadata.tables)
    with database.session() as session:
        session.execute(text("SET LOCAL lock_timeout = '10s'"))  # what a failed test left open
        session.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Database:
    """Return a database of either kind at head, whose clock the test moves."""
    database = request.getfixturevalue(request.param)
    assert isinstance(database, Database)
    return database


@contextmanager
def running_chroma(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a Chroma server on a free port; yield its URL and its process, and end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [f"{sysconfig.get_path('scripts')}/chroma", "run", "--path", str(folder)]
    process = subprocess.Popen(
        [*command, "--port", port, "--host", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"ANONYMIZED_TELEMETRY": "False"},
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _await_heartbeat(url, process)
        yield url, process
    finally:
        process.kill()  # nothing in it is to be kept, and it takes seconds to end by itself
        process.wait(START_SECONDS)


def _await_heartbeat(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            httpx.get(f"{url}/api/v2/heartbeat").raise_for_status()
            return
        except httpx.HTTPError:
            assert process.poll() is None, "the Chroma server ended"
            assert time.monotonic() < deadline, "the Chroma server does not answer"
            time.sleep(0.05)


@pytest.fixture(scope="session")
def chroma_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a real Chroma server."""
    with running_chroma(tmp_path_factory.mktemp("chroma-server")) as (url, _process):
        yield url


@pytest.fixture(scope="session")
def sentence_embedder() -> SentenceEmbedder:
    """Return the embedder that Ratchet comes with."""
    return SentenceEmbedder("starter")
