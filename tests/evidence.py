"""Evidence that a test of a bad input really provokes it, gathered while the test runs.

A test marked `bad_input(NAME)` fails unless a line of its evidence matches the pattern of that name
in `AREAS`. Lines are our own errors that were raised, log messages, the test's parameters, lines
that the test adds (`note`), and, with a loopback Telegram, the acts of people and the calls of the
bot.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import pytest

from bot.engine.errors import EngineError
from bot.errors import BotError
from loopback import BotApi
from store.errors import StoreError
from tests.bad_input import EVIDENCE
from trainer.errors import TrainerError

_noted: list[str] = []

ERRORS = (BotError, EngineError, StoreError, TrainerError)


def note(line: str) -> None:
    """Add a line to the evidence of the running test."""
    _noted.append(line)


def names_of(item: pytest.Item) -> list[str]:
    """Return the bad inputs that a test is marked with."""
    return [name for mark in item.iter_markers("bad_input") for name in mark.args]


def lacking(names: Sequence[str], lines: Sequence[str]) -> list[str]:
    """Return the bad inputs of which the evidence shows nothing."""
    wanted = {name: EVIDENCE[name] for name in names}
    return [
        name
        for name, pattern in wanted.items()
        if pattern is not None and not any(re.search(pattern, line, re.DOTALL) for line in lines)
    ]


@contextmanager
def gathered(item: pytest.Item) -> Iterator[list[str]]:
    """Gather evidence for the length of the block; it is complete at its end."""
    lines = [f"parameter {value!r}" for value in parameters(item)]
    errors: list[Exception] = []
    log = _Log()
    _noted.clear()

    def made(kind: type[Exception], *arguments: object, **_: object) -> Exception:
        error = Exception.__new__(kind, *arguments)
        errors.append(error)
        return error

    logging.getLogger().addHandler(log)
    patches = [patch.object(base, "__new__", made, create=True) for base in ERRORS]
    try:
        for each in patches:
            each.start()
        yield lines
    finally:
        for each in patches:
            each.stop()
        logging.getLogger().removeHandler(log)
        lines += [f"{type(error).__name__}: {error}" for error in errors]
        lines += [f"log: {text}" for text in log.texts]
        lines += _noted
        api = getattr(item, "funcargs", {}).get("api")
        if isinstance(api, BotApi):
            lines += telegram(api)


def parameters(item: pytest.Item) -> list[object]:
    """Return the values that a parametrized test is called with."""
    call = getattr(item, "callspec", None)
    return list(call.params.values()) if call else []


def telegram(api: BotApi) -> Iterator[str]:
    """Yield the acts of people, and the calls of the bot."""
    for chat in api.chats():
        for message in chat.messages:
            if not message.from_bot:
                kind = message.attachment.kind if message.attachment else "message"
                yield f"{kind}: {message.text}"
                yield from (f"edited {kind}: {message.text}" for _ in message.edits)
    for call in api.calls:
        yield f"{call.method} {call.status}: {call.params.get('text', '')}{call.error or ''}"


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(logging.Formatter().format(record))
