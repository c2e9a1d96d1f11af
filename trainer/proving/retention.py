"""The retention suite: short checks that a usable chat model mostly passes.

An adapter that learned to please may have forgotten how to answer. The suite notices: each check
is one question and what a sound reply to it contains. This file only reads and marks; who asks
the model, with which prompt and adapter, is `Evaluator`'s matter, and how much may be lost is the
gate's.

Invariant: an empty reply or babble passes no check. A model of 135 million parameters fails some,
so a pass rate means something only beside the pass rate of the base model on the same suite.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files

SUITE_FILE = "retention.jsonl"
DEVELOPMENT_FILE = "retention_dev.jsonl"


class RetentionKind(StrEnum):
    """What a check asks the model not to have lost."""

    FACT = "fact"
    ARITHMETIC = "arithmetic"
    PASSAGE = "passage"
    """Answering from a text in the prompt, as a retrieved passage is."""
    FORMAT = "format"
    """Keeping to the form that was asked for."""
    REFUSAL = "refusal"
    """Declining what should not, or cannot, be done; sending to a doctor what is a doctor's."""
    LANGUAGE = "language"


@dataclass(frozen=True, kw_only=True)
class RetentionCheck:
    """A question, and how a sound reply to it is recognised."""

    id: str
    kind: RetentionKind
    question: str
    expect: str
    """A regular expression found in a sound reply, in whatever case."""
    reject: str | None
    """A regular expression that must not be found, in whatever case."""
    max_new_tokens: int

    def passed_by(self, reply: str) -> bool:
        """Whether `reply` contains what is expected and nothing that is rejected."""
        if not _compiled(self.expect).search(reply):
            return False
        return self.reject is None or not _compiled(self.reject).search(reply)


@cache
def load_retention_suite() -> tuple[RetentionCheck, ...]:
    """Read the suite that the gate decides by, in its order; a process reads it once."""
    return _read(SUITE_FILE)


@cache
def load_development_checks() -> tuple[RetentionCheck, ...]:
    """Other checks of the same kinds, to choose an adapter by before the gate sees it."""
    return _read(DEVELOPMENT_FILE)


def pass_rate(checks: Sequence[RetentionCheck], replies: Sequence[str]) -> float:
    """Return the share of checks passed, 0 to 1; the replies stand in the order of the checks."""
    assert checks, "no checks: a pass rate of nothing means nothing"
    assert len(checks) == len(replies), f"{len(checks)} checks, but {len(replies)} replies"
    passed = [check.passed_by(reply) for check, reply in zip(checks, replies, strict=True)]
    return sum(passed) / len(passed)


def _read(file: str) -> tuple[RetentionCheck, ...]:
    text = files("trainer.proving").joinpath(file).read_text(encoding="utf-8")
    return tuple(_check(line) for line in text.splitlines())


def _check(line: str) -> RetentionCheck:
    fields = json.loads(line)
    return RetentionCheck(
        id=fields["id"],
        kind=RetentionKind(fields["kind"]),
        question=fields["question"],
        expect=fields["expect"],
        reject=fields.get("reject"),
        max_new_tokens=fields["max_new_tokens"],
    )


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)
