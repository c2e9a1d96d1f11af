"""Logging: every line about an update or a turn carries its id.

Invariant: a line holds no token and no text that people wrote.
"""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

UPDATE: ContextVar[int | None] = ContextVar("update", default=None)
"""The update that is being handled."""

TURN: ContextVar[int | None] = ContextVar("turn", default=None)
"""The turn that is being answered."""

QUIET = (
    *("httpx", "httpcore", "alembic", "apscheduler", "chromadb", "sentence_transformers"),
    "tornado.access",
)
"""Loggers that write more than an operator wants to read."""


def set_up_logging(level: str, form: Literal["text", "json"] = "text") -> None:
    """Log to stderr. Telegram's request URLs carry the token, so httpx stays quiet."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines() if form == "text" else _Json())
    logging.basicConfig(level=level, handlers=[handler])
    # At DEBUG, python-telegram-bot would log the token and every message.
    logging.getLogger("telegram").setLevel(max(logging.INFO, logging.getLevelName(level)))
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _ids() -> dict[str, int]:
    found = {"update": UPDATE.get(), "turn": TURN.get()}
    return {name: id for name, id in found.items() if id is not None}


class _Lines(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        ids = "".join(f" [{name} {id}]" for name, id in _ids().items())
        return f"{super().formatMessage(record)}{ids}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": moment,
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_ids(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
