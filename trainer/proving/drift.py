"""What is wrong with replies that nobody has rated yet: pure measures over their texts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

from py3langid import classify

from store.domain import Message
from trainer.proving.evaluation import Drift

NGRAM = 4
LETTERS_FOR_A_LANGUAGE = 40
"""Shorter texts are not told apart reliably."""

_WORD = re.compile(r"\w+")
_RUN = re.compile(r"(\w)\1{15,}")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A fresh reply."""

    prompt: tuple[Message, ...]
    text: str
    finished: bool
    """Whether the model ended it by itself."""


def measure_drift(replies: Sequence[Reply], nll: float) -> Drift:
    """The means over replies; `nll` is measured by whoever has the base model.

    Of no replies nothing is known: NaN, which passes no check.
    """
    if not replies:
        return Drift(
            nll=nll, **dict.fromkeys(("repetition", "degenerate", "runaway", "flips"), nan)
        )
    count = len(replies)
    return Drift(
        nll=nll,
        repetition=sum(repetition(reply.text) for reply in replies) / count,
        degenerate=sum(is_degenerate(reply.text) for reply in replies) / count,
        runaway=sum(not reply.finished for reply in replies) / count,
        flips=sum(flips_language(reply) for reply in replies) / count,
    )


def repetition(text: str) -> float:
    """Share of 4-grams of words that stood in the text before; 0 for a text of fewer words."""
    words = _WORD.findall(text.lower())
    grams = [tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def is_degenerate(text: str) -> bool:
    """Empty, mostly no letters, or one character over and over."""
    dense = "".join(text.split())
    if not dense or "\ufffd" in dense or _RUN.search(text):
        return True
    return sum(each.isalnum() for each in dense) < len(dense) / 2


def flips_language(reply: Reply) -> bool:
    """Whether a reply is in another language than its question."""
    question = reply.prompt[-1].content if reply.prompt else ""
    if min(_letters(question), _letters(reply.text)) < LETTERS_FOR_A_LANGUAGE / 2:
        return False
    if _letters(reply.text) < LETTERS_FOR_A_LANGUAGE:
        return False
    return _language(question) != _language(reply.text)


def _letters(text: str) -> int:
    return sum(each.isalpha() for each in text)


def _language(text: str) -> str:
    language, _ = classify(text)
    return str(language)
