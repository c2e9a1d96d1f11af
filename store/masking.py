"""Masks private data in training texts, so that a version cannot repeat it.

The store keeps the original texts, and people are shown them; training uses masked ones, and so do
the copies of answers that an admin approves for every chat. What is looked for stands in
`store/private_data.py`. Names are not masked: no library finds them in every language without a
model of its own. What is masked is what was found: no list of patterns finds everything.
"""

import unicodedata
from functools import lru_cache

from store.private_data import FINDERS, Found

_INVISIBLE = frozenset({"Cf", "Mn", "Me"})
"""Kinds of characters that are seen by nobody, or change the one before them."""


@lru_cache(maxsize=4096)
def mask(text: str) -> str:
    """Replace private data, where it is found, with its kind in brackets, such as [email]."""
    folded, places = _folded(text)
    for found in reversed(_apart(folded)):
        start, end = places[found.start], places[found.end - 1] + 1
        while end < len(text) and unicodedata.category(text[end]) in _INVISIBLE:
            end += 1  # what belongs to the last character goes with it
        text = f"{text[:start]}[{found.kind}]{text[end:]}"
    return text


def _folded(text: str) -> tuple[str, list[int]]:
    """Return a text as it is searched, and the place of each of its characters in `text`.

    Letters and digits of all widths and scripts become ordinary ones (NFKC), and invisible
    characters go, so that nothing is hidden by how it is written.
    """
    if text.isascii():
        return text, list(range(len(text)))
    folded: list[str] = []
    places: list[int] = []
    for place, char in enumerate(text):
        if unicodedata.category(char) in _INVISIBLE:
            continue
        digit = unicodedata.decimal(char, None)
        for each in unicodedata.normalize("NFKC", char) if digit is None else str(digit):
            folded.append(" " if each.isspace() and each != "\n" else each)
            places.append(place)
    return "".join(folded), places


def _apart(text: str) -> list[Found]:
    """Return what is found, in order; of what overlaps, what comes first in `FINDERS`."""
    taken: list[Found] = []
    for find in FINDERS:
        for found in find(text):
            if found.end > found.start and not any(
                found.start < other.end and other.start < found.end for other in taken
            ):
                taken.append(found)
    return sorted(taken)
