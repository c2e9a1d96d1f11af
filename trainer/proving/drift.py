"""Measures over the texts of fresh replies that show what a version lost; pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

from py3langid import classify

from trainer.passes.reply import Reply

NGRAM = 4
MIN_LETTERS = 40
"""Letters below which the language of a reply cannot be told reliably."""

_WORD = re.compile(r"\w+")
_ONE_CHARACTER = re.compile(r"(\w)\1{15,}")
"""The same character at least 16 times in a row."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Properties of a version's fresh replies, each a mean over the replies."""

    nll: float
    """Negative log-likelihood under the base model, in nats a token: high for babble."""
    repetition: float
    """Share of 4-grams of words that repeat an earlier one of the same reply."""
    degenerate: float
    """Share of replies that are empty or garbled."""
    runaway: float
    """Share of replies that were cut at the token limit."""
    flips: float
    """Share of replies in another language than the question."""


def measure_drift(replies: Sequence[Reply], nll: float) -> Drift:
    """Return the means over replies; `nll` is measured by the caller, who has the base model.

    Without replies every mean is NaN, which passes no check.
    """
    if not replies:
        return Drift(nll=nll, repetition=nan, degenerate=nan, runaway=nan, flips=nan)
    count = len(replies)
    return Drift(
        nll=nll,
        repetition=sum(repetition(reply.text) for reply in replies) / count,
        degenerate=sum(is_degenerate(reply.text) for reply in replies) / count,
        runaway=sum(not reply.finished for reply in replies) / count,
        flips=sum(flips_language(reply) for reply in replies) / count,
    )


def repetition(text: str) -> float:
    """Return the share of 4-grams of words that occurred before; 0 for fewer than four words."""
    words = _WORD.findall(text.lower())
    grams = [tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def is_degenerate(text: str) -> bool:
    """Return whether a text is empty, mostly not letters or digits, or one repeated character."""
    dense = "".join(text.split())
    if not dense or "\ufffd" in dense or _ONE_CHARACTER.search(text):
        return True
    return sum(each.isalnum() for each in dense) < len(dense) / 2


def flips_language(reply: Reply) -> bool:
    """Return whether a reply is in another language than its question; False if unclear."""
    question = reply.prompt[-1].content if reply.prompt else ""
    if min(_letters(question), _letters(reply.text)) < MIN_LETTERS / 2:
        return False
    if _letters(reply.text) < MIN_LETTERS:
        return False
    return _language(question) != _language(reply.text)


def _letters(text: str) -> int:
    return sum(each.isalpha() for each in text)


def _language(text: str) -> str:
    language, _ = classify(text)
    return str(language)
