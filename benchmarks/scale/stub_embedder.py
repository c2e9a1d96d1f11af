"""Stand-in for the embedder, so that only SQL is measured."""

from collections.abc import Sequence

import numpy as np

from benchmarks.scale.drawing import EMBEDDER, near_vectors
from store.embedder import Vector


class StubEmbedder:
    """An embedder that gives every text one vector, which is near to those in a filled store."""

    def __init__(self) -> None:
        [vector] = near_vectors(1, seed=1)
        self._vector: list[float] = np.frombuffer(vector, dtype=np.float32).tolist()

    @property
    def name(self) -> str:
        """Name that the vectors in a filled store are kept under."""
        return EMBEDDER

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return one vector for each text."""
        return [self._vector] * len(texts)
