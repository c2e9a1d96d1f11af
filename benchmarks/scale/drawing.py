"""Draws the texts and times that a store is filled with, and says how large its parts are."""

import random
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from store.tables import Base

YEAR = timedelta(days=365)
"""Time over which the turns are spread, up to now."""

TURNS_A_PERSON = 200
LEAST_PEOPLE = 50
LARGE_GROUP = -1
"""Chat id of the group in which a tenth of the people talk, all in one conversation."""

SMALL_GROUPS = range(-101, -1)
SILENT_GROUPS = range(-5, -1)
"""Groups in which nothing is to be learned, as their admins said."""

FIRST_PERSON = 1000
DOCUMENTS = 20
CHUNKS = 50
"""Chunks of a document."""

RUNS = 50
MODEL = "starter"

Row: TypeAlias = dict[str, Any]
Rows: TypeAlias = dict[type[Base], list[Row]]


class Drawing:
    """Draws for a store with so many turns, the last of them at a moment."""

    def __init__(self, turns: int, now: datetime, seed: int = 0) -> None:
        self.turns = turns
        self.now = now
        self.random = random.Random(seed)
        count = max(LEAST_PEOPLE, turns // TURNS_A_PERSON)
        self.people = range(FIRST_PERSON, FIRST_PERSON + count)
        self._words = _made_up_words(self.random)

    def time_of(self, turn_id: int) -> datetime:
        """Return when a turn is asked."""
        return self.now - YEAR * (1 - turn_id / self.turns)

    def text(self, least: int, most: int) -> str:
        """Draw a text of so many characters."""
        start = self.random.randrange(len(self._words) - most)
        return self._words[start : start + self.random.randint(least, most)].strip()

    def chunk_text(self, chunk_id: int) -> str:
        """Return the text of a chunk, always the same."""
        return self._words[chunk_id * 300 : chunk_id * 300 + 240]

    def log(self) -> str:
        """Return the text of a run's log."""
        return self._words[:10_000]


def document_of(chunk_id: int) -> int:
    """Return the id of the document that a chunk belongs to."""
    return 1 + (chunk_id - 1) // CHUNKS


def version(number: int) -> str:
    """Return the name of a version."""
    return f"a{number:04}-{number:08x}"


def _made_up_words(draw: random.Random) -> str:
    """Draw a few megabytes of made-up words; every text is a piece of them."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(20_000)]
    return " ".join(draw.choices(words, k=500_000))
