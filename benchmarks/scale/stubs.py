"""Stands in for the embedder and the vector index, so that SQL is measured and nothing else."""

import random
from collections.abc import Iterable, Sequence

from store.embedder import Vector


class StubEmbedder:
    """Gives every text the same vector."""

    name = "stub"

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """One vector a text."""
        return [(1.0,)] * len(texts)


class StubIndex:
    """Ids without vectors: some of them are the nearest to anything."""

    absent = False
    identity = where = "stub"

    def __init__(self) -> None:
        self._ids: set[int] = set()
        self._draw = random.Random(0)

    def open(self) -> None:
        """Nothing is to be opened."""

    def upsert(self, ids: Iterable[int], vectors: Sequence[Vector]) -> None:
        """Keep the ids."""
        self._ids.update(ids)

    def delete(self, ids: Iterable[int]) -> None:
        """Drop the ids."""
        self._ids.difference_update(ids)

    def nearest(self, vector: Vector, count: int) -> list[tuple[int, float]]:
        """Draw so many ids."""
        drawn = self._draw.sample(sorted(self._ids), min(count, len(self._ids)))
        return [(id, 0.9) for id in drawn]

    def ids(self) -> set[int]:
        """Every id."""
        return set(self._ids)

    def count(self) -> int:
        """How many ids there are."""
        return len(self._ids)
