"""Made-up texts and times that a store is filled with, and the sizes of its parts."""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import numpy as np

from store.tables import Base

YEAR = timedelta(days=365)
"""Time over which the turns are spread, up to now."""

TURNS_A_PERSON = 200
LEAST_PEOPLE = 50
LARGE_GROUP = -1
"""Chat id of the group in which a tenth of the people talk, all in one conversation."""

SMALL_GROUPS = range(-101, -1)
SILENT_GROUPS = range(-5, -1)
"""Groups in which nothing may be learned, by decision of their admins."""

FIRST_PERSON = 1000
DOCUMENTS = 20
CHUNKS = 50
"""Number of chunks of a document."""

EMBEDDER = "stub"
"""Name of the embedder that is recorded for the vectors of memories."""

DIMENSIONS = 384
VECTORS = 1000
"""Number of different vectors; several memories share one."""

RUNS = 50
MODEL = "starter"

Row: TypeAlias = dict[str, Any]
Rows: TypeAlias = dict[type[Base], list[Row]]


class Drawing:
    """Random texts, times and vectors for a store with so many turns up to a last moment."""

    def __init__(self, turns: int, now: datetime, seed: int = 0) -> None:
        self.turns = turns
        self.now = now
        self.random = random.Random(seed)
        count = max(LEAST_PEOPLE, turns // TURNS_A_PERSON)
        self.people = range(FIRST_PERSON, FIRST_PERSON + count)
        self._words = _made_up_words(self.random)
        self._vectors = near_vectors(VECTORS, seed)

    def time_of(self, turn_id: int) -> datetime:
        """Return when a turn is asked."""
        return self.now - YEAR * (1 - turn_id / self.turns)

    def text(self, least: int, most: int) -> str:
        """Draw a text of `least` to `most` characters."""
        start = self.random.randrange(len(self._words) - most)
        return self._words[start : start + self.random.randint(least, most)].strip()

    def chunk_text(self, chunk_id: int) -> str:
        """Return the text of a chunk, always the same."""
        return self._words[chunk_id * 300 : chunk_id * 300 + 240]

    def vector(self) -> bytes:
        """Draw the vector of a question; all of them are close to each other."""
        return self.random.choice(self._vectors)

    def log(self) -> str:
        """Return the text of a run's log."""
        return self._words[:10_000]


def document_of(chunk_id: int) -> int:
    """Return the id of the document that a chunk belongs to."""
    return 1 + (chunk_id - 1) // CHUNKS


def near_vectors(count: int, seed: int) -> Sequence[bytes]:
    """Draw unit vectors around one direction, as bytes; their cosines are about 0.9."""
    draw = np.random.default_rng(seed)
    spread = draw.normal(size=(count, DIMENSIONS)) / 3
    spread[:, 0] += DIMENSIONS**0.5
    units = spread / np.linalg.norm(spread, axis=1, keepdims=True)
    return [unit.astype(np.float32).tobytes() for unit in units]


def version(number: int) -> str:
    """Return the name of a version."""
    return f"a{number:04}-{number:08x}"


def _made_up_words(draw: random.Random) -> str:
    """Draw a few megabytes of made-up words, from which all texts are cut."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(20_000)]
    return " ".join(draw.choices(words, k=500_000))
