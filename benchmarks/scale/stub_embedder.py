"""Stands in for the embedder, so that SQL is measured and nothing else."""

from collections.abc import Sequence

import numpy as np

from benchmarks.scale.drawing import EMBEDDER, near_vectors
from store.embedder import Vector


class StubEmbedder:
    """Gives every text the same vector, which is near to those in a filled store."""

    def __init__(self) -> None:
        [vector] = near_vectors(1, seed=1)
        self._vector: list[float] = np.frombuffer(vector, dtype=np.float32).tolist()

    @property
    def name(self) -> str:
        """The name that the vectors in a filled store are kept under."""
        return EMBEDDER

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """One vector a text."""
        return [self._vector] * len(texts)
