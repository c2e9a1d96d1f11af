"""What must never be in the log."""

import logging
from collections.abc import Iterator

import pytest
from telegram.ext import ApplicationBuilder

from bot.app import set_up_logging
from store.conversations import Conversations
from store.database import Database
from store.domain import Place
from store.errors import DatabaseUnavailable, StoreError
from tests.store.talk import ADA

TOKEN = "42:very-secret"


@pytest.fixture
def restored_levels() -> Iterator[None]:
    names = ("telegram", "httpx", "httpcore", "alembic", "chromadb", "sentence_transformers")
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.usefixtures("restored_levels")
def test_the_token_is_not_logged_even_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    set_up_logging("DEBUG")

    with caplog.at_level(logging.DEBUG):
        ApplicationBuilder().token(TOKEN).build()

    assert TOKEN not in caplog.text


def test_what_people_write_is_not_in_a_database_error(sqlite: Database) -> None:
    conversation = Conversations(sqlite).current(Place(chat_id=1))
    with sqlite.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE turns")

    with pytest.raises(StoreError) as failed:
        Conversations(sqlite).begin_turn(conversation.id, ADA, "my private words", model="m")

    assert isinstance(failed.value, DatabaseUnavailable)
    assert "my private words" not in f"{failed.value} {failed.value.__cause__}"
