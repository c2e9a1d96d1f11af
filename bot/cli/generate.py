"""`ratchet generate`: completes the prompts of a file, one per line."""

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bot.engine.base import Completion, Engine, SamplingParams
from bot.errors import BotError, UsageError
from store.domain import Message
from store.preferences import storable, to_messages

AT_ONCE = 64
"""Lines that are with the engine at the same time."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the input and its prompt."""

    number: int
    row: dict[str, Any]
    messages: tuple[Message, ...]


def read_lines(path: Path, *, system_prompt: str) -> tuple[Line, ...]:
    """Read the lines of a file. Raises `UsageError`, which names the first invalid line."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            numbered = [(number, line) for number, line in enumerate(file, 1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    lines = []
    for number, line in numbered:
        try:
            row = json.loads(line)
            lines.append(Line(number=number, row=row, messages=_messages(row, system_prompt)))
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}, line {number}: {error}") from error
    if not lines:
        raise UsageError(f"{path} has no prompts")
    return tuple(lines)


async def generate(
    engine: Engine,
    lines: Sequence[Line],
    sampling: SamplingParams,
    *,
    adapter: str | None,
    at_once: int = AT_ONCE,
    done: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Return the rows in their order, with `completion`, `completion_tokens` and `adapter` added.

    Raises `UsageError` before anything is generated if a prompt is too long for the model.
    """
    for line in lines:
        tokens = engine.count_tokens(line.messages)
        if tokens >= engine.context_tokens:
            raise UsageError(
                f"line {line.number}: the prompt has {tokens} tokens, and the model reads "
                f"{engine.context_tokens - 1} at most"
            )
    room = asyncio.Semaphore(at_once)

    async def complete(number: int, line: Line) -> dict[str, Any]:
        # Each line has its own seed, or samples would depend on the order of completion.
        seed = None if sampling.seed is None else sampling.seed + number
        async with room:
            stream = engine.stream(line.messages, replace(sampling, seed=seed), adapter=adapter)
            async with aclosing(stream) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Completion):
                        done()
                        return {
                            **line.row,
                            "completion": piece.text,
                            "completion_tokens": piece.completion_tokens,
                            "adapter": piece.adapter,
                        }
        raise AssertionError("an engine's stream ends with its completion")

    tasks = [complete(number, line) for number, line in enumerate(lines)]
    return list(await asyncio.gather(*tasks))


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows to a temporary file, then rename it. Raises `BotError`."""
    aside = path.with_name(f".{path.name}.part")
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        aside.write_text(text, encoding="utf-8", errors="replace")
        os.replace(aside, path)
    except OSError as error:
        raise BotError(f"cannot write {path}: {error.strerror}") from error


def _messages(row: object, system_prompt: str) -> tuple[Message, ...]:
    if not isinstance(row, dict):
        raise ValueError("the line is not a JSON object")
    prompt, messages = row.get("prompt"), row.get("messages")
    if isinstance(prompt, str) and prompt.strip():
        system = [Message(role="system", content=system_prompt)] if system_prompt else []
        return (*system, Message(role="user", content=storable(prompt, "prompt")))
    if isinstance(messages, list) and messages:
        return to_messages(messages, "messages")
    raise ValueError('the line needs a "prompt" with text, or "messages" with role and content')
