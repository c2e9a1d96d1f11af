"""Rehearsal: the base model's own answers to everyday questions, learned along with the ratings.

What is never trained on is forgotten first (Robins 1995, "Catastrophic forgetting, rehearsal and
pseudorehearsal"); docs/experiments.md has what it costs to leave this out. None of the questions is
in the retention suite.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files

from store.domain import Demonstration, Example, Examples, Message
from trainer.drift import Reply

REHEARSAL_FILE = "rehearsal.jsonl"
REHEARSED_TOKENS = 32
"""Of each answer; the answers are short."""

_TIMELESS = datetime(1970, 1, 1, tzinfo=UTC)


@cache
def load_rehearsal() -> tuple[str, ...]:
    """The questions, in the order in which the first so many are used."""
    text = files("trainer").joinpath(REHEARSAL_FILE).read_text(encoding="utf-8")
    return tuple(json.loads(line)["question"] for line in text.splitlines())


def rehearsal_prompts(count: int, system_prompt: str) -> list[tuple[Message, ...]]:
    """The first `count` questions as conversations begin with them."""
    system = [Message(role="system", content=system_prompt)] if system_prompt else []
    return [
        (*system, Message(role="user", content=question)) for question in load_rehearsal()[:count]
    ]


def with_rehearsal(train: Examples, replies: Sequence[Reply]) -> Examples:
    """The examples, and the base model's replies as good ones among those of the main kind."""
    answered = [reply for reply in replies if reply.text.strip()]
    if train.unpaired:
        good = tuple(
            Example(
                id=f"r{number}",
                prompt=reply.prompt,
                completion=reply.text,
                label=True,
                held_out=False,
                finished=reply.finished,
                created_at=_TIMELESS,
            )
            for number, reply in enumerate(answered)
        )
        return replace(train, unpaired=(*train.unpaired, *good))
    if train.demonstrations:
        shown = tuple(
            Demonstration(
                id=f"r{number}",
                prompt=reply.prompt,
                completion=reply.text,
                held_out=False,
                created_at=_TIMELESS,
            )
            for number, reply in enumerate(answered)
            if reply.finished
        )
        return replace(train, demonstrations=(*train.demonstrations, *shown))
    return train
