"""Log lines, and what must never be in them."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Literal

import pytest
from telegram.ext import ApplicationBuilder

from store.conversations import Conversations
from store.database import Database
from store.domain import Place
from store.errors import DatabaseUnavailable, StoreError
from store.logs import QUIET, TURN, UPDATE, set_up_logging
from tests.store.talk import ADA

TOKEN = "42:very-secret"


@pytest.fixture
def restored_levels() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in ("telegram", *QUIET)}
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


@pytest.fixture
def line(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Yield a function that logs a message in a form, and returns the line."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def log(form: Literal["text", "json"], message: str, **ids: int) -> str:
        root.handlers[:] = []
        set_up_logging("INFO", form)
        tokens = [(UPDATE, UPDATE.set(ids.get("update"))), (TURN, TURN.set(ids.get("turn")))]
        logging.getLogger("ratchet.test").info(message)
        for variable, token in tokens:
            variable.reset(token)
        return capsys.readouterr().err.strip()

    yield log
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("restored_levels")
def test_a_line_carries_the_ids_of_the_update_and_the_turn(line: Callable[..., str]) -> None:
    assert line("text", "hello", update=7, turn=3).endswith("hello [update 7] [turn 3]")
    assert line("text", "hello").endswith("hello")


@pytest.mark.usefixtures("restored_levels")
def test_a_line_of_json_is_one_object(line: Callable[..., str]) -> None:
    found = json.loads(line("json", "two\nlines", update=7, turn=3))

    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "INFO",
        "logger": "ratchet.test",
        "message": "two\nlines",
        "update": 7,
        "turn": 3,
    }
