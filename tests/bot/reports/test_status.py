"""The few facts that `ratchet status` and `/status` show."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bot.reports.status import Status, StatusReader
from store.adapters import Adapters
from store.conversations import Conversations
from store.database import Database, head_revision
from store.documents.documents import Documents
from store.domain import Rating, RunStatus
from store.index import ChromaIndex
from store.runs import Runs
from store.settings import make_settings
from store.statistics import Statistics
from tests.conftest import MakeAdapter
from tests.fakes import FakeEmbedder
from tests.store.talk import ADA, BOB, rate, talk

ReadStatus = Callable[..., Status]
MakeReader = Callable[..., StatusReader]


@pytest.fixture
def knowledge(sqlite: Database, tmp_path: Path) -> Documents:
    index = ChromaIndex(path=tmp_path / "chroma", url="", name="chunks")
    return Documents(sqlite, index, FakeEmbedder(), chunk_chars=240)


@pytest.fixture
def adapters(sqlite: Database, tmp_path: Path) -> Adapters:
    return Adapters(sqlite, tmp_path / "adapters")


@pytest.fixture
def read_status(reader: MakeReader) -> ReadStatus:
    return lambda **settings: reader(**settings).read()


@pytest.fixture
def reader(sqlite: Database, knowledge: Documents, adapters: Adapters) -> MakeReader:
    def make(**settings: object) -> StatusReader:
        chosen = make_settings(**settings)
        return StatusReader(
            engine=chosen.engine,
            storage=chosen.storage,
            train_cron=chosen.train.cron,
            database=sqlite,
            conversations=Conversations(sqlite),
            knowledge=knowledge,
            adapters=adapters,
            runs=Runs(sqlite),
            statistics=Statistics(sqlite),
        )

    return make


def test_what_was_said_rated_and_handed_in_is_counted(
    sqlite: Database, knowledge: Documents, read_status: ReadStatus
) -> None:
    turn_id = talk(sqlite)
    talk(sqlite)
    rate(sqlite, turn_id, Rating.UP, ADA)
    rate(sqlite, turn_id, Rating.DOWN, BOB)
    knowledge.add("hours.md", b"# Hours\n\nThe harbour opens at nine.", added_by=ADA)

    status = read_status()

    assert (status.turns, status.ratings) == (2, {"up": 1, "down": 1})
    assert status.pending_documents == 1
    assert status.schema == head_revision()


def test_telegram_is_told_numbers_and_times_but_no_paths(
    sqlite: Database, knowledge: Documents, reader: MakeReader
) -> None:
    rate(sqlite, talk(sqlite), Rating.UP, ADA)
    knowledge.add("hours.md", b"# Hours\n\nThe harbour opens at nine.", added_by=ADA)

    text = reader(train_cron="0 3 * * *").text()

    assert "People: 1\n" in text
    assert "Documents: 1, 1 of them being read" in text
    assert "Next training run: Thursday, 01 January 2026, 03:00 UTC" in text
    assert "sqlite" not in text
    assert "schema" not in text


def test_runs_that_wait_are_counted(sqlite: Database, read_status: ReadStatus) -> None:
    runs = Runs(sqlite)
    runs.finish(runs.queue("a test")[0].id, RunStatus.SKIPPED, "It is over.")
    before = read_status().queue
    runs.queue("a test")

    assert (before, read_status().queue) == (0, 1)


def test_the_active_adapter_is_named(
    adapters: Adapters, read_status: ReadStatus, make_adapter: MakeAdapter
) -> None:
    adapter = adapters.add(Path(make_adapter("starter").path), base_model="starter")
    before = read_status()
    adapters.promote(adapter.name, base_model="starter", reason="a test")

    assert (before.adapter, read_status().adapter) == (None, adapter.name)
    assert ("adapter", "none (the base model)") in before.rows()


@pytest.mark.parametrize(("merged", "slower"), [(True, False), (False, True)])
def test_an_adapter_that_costs_time_is_told_of(
    adapters: Adapters,
    read_status: ReadStatus,
    make_adapter: MakeAdapter,
    merged: bool,
    slower: bool,
) -> None:
    adapter = adapters.add(Path(make_adapter("starter").path), base_model="starter")
    adapters.promote(adapter.name, base_model="starter", reason="a test")
    before = read_status()
    adapters.note_merged(adapter.name, merged)
    after = read_status()

    assert before.engine == "local (auto)"
    assert ("too little memory" in after.engine) is slower
    assert "too little memory" not in read_status(vllm_url="http://gpu:8000").engine


@pytest.mark.parametrize(
    ("cron", "due"),
    [
        ("0 3 * * *", "2026-01-01T03:00:00+00:00"),
        ("30 23 * * mon", "2026-01-05T23:30:00+00:00"),
        ("off", None),
    ],
)
def test_the_next_run_is_when_the_schedule_says(
    read_status: ReadStatus, cron: str, due: str | None
) -> None:
    status = read_status(train_cron=cron)

    assert status.next_run == due
    assert ("next_run", due or "none scheduled") in status.rows()
