"""The retention suite: short checks that a usable chat model mostly passes.

An adapter that was trained to please may have forgotten how to answer; the suite notices. Each
check is a question with a pattern of a sound reply. How much may be lost is the gate's decision.

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

from bot.engine.base import SamplingParams
from bot.engine.local import Weights
from trainer.passes.generation import generate_replies, prompt_for
from trainer.passes.reply import Reply

SUITE_FILE = "retention.jsonl"
DEVELOPMENT_FILE = "retention_dev.jsonl"


class RetentionKind(StrEnum):
    """Abilities that checks ask for."""

    FACT = "fact"
    ARITHMETIC = "arithmetic"
    PASSAGE = "passage"
    """Answering from a text in the prompt, as from a retrieved passage."""
    FORMAT = "format"
    """Keeping to the requested form."""
    REFUSAL = "refusal"
    """Declining what should not or cannot be done, and referring medical questions to a doctor."""
    LANGUAGE = "language"


@dataclass(frozen=True, kw_only=True)
class RetentionCheck:
    """A question, and patterns that recognise a sound reply to it."""

    id: str
    kind: RetentionKind
    question: str
    expect: str
    """Regular expression that a sound reply contains, in upper or lower case."""
    reject: str | None
    """Regular expression that a sound reply does not contain, in upper or lower case."""
    max_new_tokens: int

    def passed_by(self, reply: str) -> bool:
        """Return whether `reply` contains the expected pattern and not the rejected one."""
        if not _compiled(self.expect).search(reply):
            return False
        return self.reject is None or not _compiled(self.reject).search(reply)


@cache
def load_retention_suite() -> tuple[RetentionCheck, ...]:
    """Return the checks that the gate decides by, in their order; read once a process."""
    return _read(SUITE_FILE)


@cache
def load_development_checks() -> tuple[RetentionCheck, ...]:
    """Return other checks of the same kinds, for choosing a checkpoint before the gate sees it."""
    return _read(DEVELOPMENT_FILE)


def answer_checks(
    weights: Weights, checks: Sequence[RetentionCheck], system_prompt: str
) -> list[Reply]:
    """Generate greedy replies to checks, with the system prompt that people's questions have.

    Always pass the checks in the same order: in bf16 the other rows of a batch decide near ties,
    which is worth a point or two of the pass rate.
    """
    prompts = [prompt_for(system_prompt, check.question) for check in checks]
    samplings = [SamplingParams(max_new_tokens=check.max_new_tokens) for check in checks]
    return generate_replies(weights, prompts, samplings)


def pass_rate(checks: Sequence[RetentionCheck], replies: Sequence[str]) -> float:
    """Return the share of checks that their replies pass, 0 to 1; both are in the same order."""
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
