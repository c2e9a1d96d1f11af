"""The vector index: Chroma, in this process or on a server. It can be dropped and rebuilt from SQL.

Invariant: an id in the index is a chunk's id in SQL; which ids count is for SQL to say.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
from filelock import FileLock, Timeout

from store.embedder import Vector
from store.errors import IndexInUse, IndexUnavailable

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

BATCH_SIZE = 500
"""Vectors sent to Chroma at a time; its own limit is in the thousands."""

TIMEOUT_SECONDS = 30.0
"""How long a Chroma server may take over one call."""


class ChromaIndex:
    """One collection of unit vectors, compared by cosine. Opened when it is first used."""

    def __init__(self, *, path: Path, url: str, name: str) -> None:
        self._path = path
        self._url = url
        self._name = name
        self._lock = FileLock(path.with_name("chroma.lock"), thread_local=False)
        self._client: ClientAPI | None = None
        self._collection: Collection | None = None

    @property
    def where(self) -> str:
        """The folder or the server, for people."""
        return self._url or str(self._path)

    @property
    def identity(self) -> str:
        """Tells one index from another: vectors that lie in that one are not in this one."""
        return f"{self._url or 'embedded'}#{self._name}"

    def open(self) -> None:
        """Raises `IndexInUse`, or `IndexUnavailable`; may be tried again after either."""
        if self._collection is not None:
            return
        if not self._url:
            self._claim()
        try:
            with _translated(self.where):
                self._client = self._connect()
                self._collection = self._make_collection(self._client)
        except IndexUnavailable:
            self.close()
            raise

    def upsert(self, ids: Sequence[int], vectors: Sequence[Vector]) -> None:
        """Add vectors, or replace those under the same ids."""
        with self._opened() as collection:
            for start in range(0, len(ids), BATCH_SIZE):
                part = slice(start, start + BATCH_SIZE)
                collection.upsert(
                    ids=[str(each) for each in ids[part]], embeddings=list(vectors[part])
                )

    def delete(self, ids: Sequence[int]) -> None:
        """Take vectors out; ids that are not there are no error."""
        with self._opened() as collection:
            for start in range(0, len(ids), BATCH_SIZE):
                collection.delete(ids=[str(each) for each in ids[start : start + BATCH_SIZE]])

    def nearest(self, vector: Vector, count: int) -> list[tuple[int, float]]:
        """The nearest ids with their cosine similarities, nearest first."""
        with self._opened() as collection:
            found = collection.query(
                query_embeddings=list(vector), n_results=count, include=["distances"]
            )
        distances: Any = found["distances"]
        return [
            (int(each), 1.0 - float(distance))
            for each, distance in zip(found["ids"][0], distances[0], strict=True)
        ]

    def ids(self) -> set[int]:
        """Every id that has a vector here."""
        with self._opened() as collection:
            return {int(each) for each in collection.get(include=[])["ids"]}

    def count(self) -> int:
        """How many vectors lie here."""
        with self._opened() as collection:
            return collection.count()

    def drop(self) -> None:
        """Throw every vector away."""
        with self._opened():
            assert self._client is not None
            self._client.delete_collection(self._name)
            self._collection = self._make_collection(self._client)

    def close(self) -> None:
        """Let another process have it."""
        if self._client is not None:
            self._client.close()  # type: ignore[attr-defined]  # missing in its interface
        self._collection = self._client = None
        self._lock.release(force=True)

    @contextmanager
    def _opened(self) -> "Iterator[Collection]":
        self.open()
        assert self._collection is not None
        with _translated(self.where):
            yield self._collection

    def _claim(self) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise IndexInUse(str(self._path)) from None

    def _connect(self) -> "ClientAPI":
        import chromadb  # half a second, and not every command needs it
        from chromadb.config import Settings

        settings = Settings(anonymized_telemetry=False)
        if not self._url:
            return chromadb.PersistentClient(str(self._path), settings=settings)
        parts = urlsplit(self._url)
        httpx.get(f"{self._url}/api/v2/heartbeat", timeout=TIMEOUT_SECONDS).raise_for_status()
        client = chromadb.HttpClient(
            host=parts.hostname or "",
            port=parts.port or (443 if parts.scheme == "https" else 80),
            ssl=parts.scheme == "https",
            settings=settings,
        )
        # Chroma's client waits for ever and has no setting for it.
        client._server._session.timeout = TIMEOUT_SECONDS  # type: ignore[attr-defined]
        return client

    def _make_collection(self, client: "ClientAPI") -> "Collection":
        return client.get_or_create_collection(
            self._name, embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
        )


@contextmanager
def _translated(where: str) -> Iterator[None]:
    import chromadb.errors

    try:
        yield
    # pyo3's PanicException is how Chroma's core reports a damaged folder; it is no Exception.
    except BaseException as error:
        expected = (chromadb.errors.ChromaError, httpx.HTTPError, ValueError, OSError, RuntimeError)
        if isinstance(error, expected) or type(error).__name__ == "PanicException":
            raise IndexUnavailable(
                f"the knowledge index in {where} cannot be used: {error}; "
                "check RATCHET_CHROMA_URL, or rebuild it with `ratchet knowledge reindex`"
            ) from error
        raise
