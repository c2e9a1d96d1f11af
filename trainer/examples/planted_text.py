"""Finds people whose corrections plant something: a text, a name, a link or a phrase.

What is planted stands in most of somebody's corrections of answers to unlike questions, and in
hardly anything that others or the bot wrote. How the corrections are worded besides does not
matter.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from store.domain import ExampleSet, OriginKind, PreferencePair
from store.embedder import Embedder

MOST_CORRECTIONS = 100
"""Latest corrections of a person that are looked at."""

SAME_TEXT_SIMILARITY = 0.95
"""Cosine similarity from which two corrections count as the same text."""

LIKE_QUESTION_SIMILARITY = 0.8
"""Cosine similarity from which two questions count as alike."""

MIN_REPEATS = 8
"""Corrections that repeat something from which it is planted, if they are the larger part."""

MIN_EACH = 4
"""Corrections with the same term from which somebody takes part in planting it."""

PLANTED_PART = 0.6
"""Part of the corrections of those who use a term that must have it."""

COMMON_PART = 0.02
"""Part of all other texts from which a term is a common one."""

_LINK = re.compile(r"(?:https?://|www\.)([^\s/?#]+)|\b([\w-]+(?:\.[\w-]+)*\.[a-z]{2,})\b", re.I)
_HANDLE = re.compile(r"@\w{3,}")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]{4,}")
"""Runs of scripts without spaces between words: Japanese, Chinese, Thai."""

WORDS = 3
"""Words of a phrase."""
CHARS = 4
"""Characters of a phrase in a script without spaces."""


@dataclass(frozen=True, kw_only=True)
class _Correction:
    person: int
    text: str
    terms: frozenset[str]
    question: int
    """Number of the group of like questions that its question is in."""


def find_planting(
    examples: ExampleSet, embedder: Embedder, *, trusted: Collection[int]
) -> Mapping[int, str]:
    """Return the people whose corrections plant something, with the reason.

    `trusted` people are never among them, and what they write is common.
    """
    pairs = _latest(examples, trusted)
    if len(pairs) < MIN_REPEATS:
        return {}
    found = dict(_same_texts(pairs, embedder))
    for term, people in _planted_terms(pairs, examples, embedder):
        for person in people:
            found.setdefault(person, f"corrections of unlike answers keep saying “{term}”")
    return found


def _latest(examples: ExampleSet, trusted: Collection[int]) -> list[PreferencePair]:
    """Return everybody's latest corrections; one may be a demonstration, too, and counts once."""
    by_person = defaultdict[int, list[PreferencePair]](list)
    for pair in examples.pairs:
        if pair.origin.kind is OriginKind.CORRECTED and set(pair.raters).isdisjoint(trusted):
            by_person[pair.raters[0]].append(pair)
    return [pair for given in by_person.values() for pair in given[-MOST_CORRECTIONS:]]


def _same_texts(pairs: Sequence[PreferencePair], embedder: Embedder) -> Iterator[tuple[int, str]]:
    """Yield the people most of whose corrections are nearly the same text, with the reason."""
    by_person = defaultdict[int, list[str]](list)
    for pair in pairs:
        by_person[pair.raters[0]].append(pair.chosen)
    for person, texts in by_person.items():
        if len(texts) < MIN_REPEATS:
            continue
        vectors = _embed(embedder, texts)
        same = int((vectors @ vectors.T >= SAME_TEXT_SIMILARITY).sum(axis=1).max())
        if same >= MIN_REPEATS and same > len(texts) / 2:
            yield person, f"{same} of {len(texts)} corrections say nearly the same"


def _planted_terms(
    pairs: Sequence[PreferencePair], examples: ExampleSet, embedder: Embedder
) -> Iterator[tuple[str, set[int]]]:
    """Yield terms that are planted, with the people who plant them."""
    corrections = _corrections(pairs, embedder)
    with_term = defaultdict[str, list[_Correction]](list)
    count = defaultdict[int, int](int)
    for each in corrections:
        count[each.person] += 1
        for term in each.terms:
            with_term[term].append(each)
    common = _other_texts(examples, pairs)
    for term, uses in sorted(with_term.items(), key=lambda item: (-len(item[1]), item[0])):
        if len(uses) < MIN_REPEATS:
            return
        people = {
            person
            for person in {each.person for each in uses}
            if (own := sum(each.person == person for each in uses)) >= MIN_EACH
            and own >= PLANTED_PART * count[person]
        }
        planted = [each for each in uses if each.person in people]
        if len({each.question for each in planted}) < MIN_REPEATS:
            continue
        rest = [each.terms for each in corrections if each.person not in people] + common
        used = sum(term in terms for terms in rest)
        if used <= COMMON_PART * len(rest):
            yield term, people


def _corrections(pairs: Sequence[PreferencePair], embedder: Embedder) -> list[_Correction]:
    questions = _embed(embedder, [pair.prompt[-1].content for pair in pairs])
    heads: list[int] = []
    corrections = []
    for number, pair in enumerate(pairs):
        like = [
            head
            for head in heads
            if questions[number] @ questions[head] >= LIKE_QUESTION_SIMILARITY
        ]
        if not like:
            heads.append(number)
        asked = _terms(pair.prompt[-1].content) | _terms(pair.rejected)
        corrections.append(
            _Correction(
                person=pair.raters[0],
                text=pair.chosen,
                terms=frozenset(_terms(pair.chosen) - asked),
                question=like[0] if like else number,
            )
        )
    return corrections


def _other_texts(examples: ExampleSet, pairs: Sequence[PreferencePair]) -> list[frozenset[str]]:
    """Return the terms of each text that the bot or trusted people wrote."""
    own = {pair.origin for pair in pairs}
    texts = {each.completion for each in examples.unpaired}
    texts |= {pair.rejected for pair in examples.pairs}
    texts |= {pair.chosen for pair in examples.pairs if pair.origin not in own}
    return [_terms(text) for text in texts]


def _terms(text: str) -> frozenset[str]:
    """Return what could be planted with a text: names, numbers, links, handles and phrases."""
    words = _WORD.findall(text)
    folded = [word.casefold() for word in words]
    terms = {
        word.casefold()
        for word in words
        if len(word) > 2 and (word[0].isupper() or any(char.isdigit() for char in word))
    }
    terms |= {" ".join(folded[at : at + WORDS]) for at in range(len(folded) - WORDS + 1)}
    terms |= {(link or bare).casefold() for link, bare in _LINK.findall(text)}
    terms |= {handle.casefold() for handle in _HANDLE.findall(text)}
    for run in _UNSPACED.findall(text):
        terms |= {run[at : at + CHARS] for at in range(len(run) - CHARS + 1)}
    return frozenset(terms)


def _embed(embedder: Embedder, texts: Sequence[str]) -> NDArray[np.float64]:
    """Return one row a text, of length 1; an empty text is embedded as a full stop."""
    return np.array(embedder.embed([text.strip() or "." for text in texts]))
