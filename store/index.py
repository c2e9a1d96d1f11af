"""The vector index: Chroma, in this process or on a server. It can be dropped and rebuilt from SQL.

Invariant: an id in the index is a chunk's id in SQL; SQL decides which ids count.
"""

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import httpx
from filelock import FileLock, Timeout

from store.embedder import Vector
from store.errors import IndexInUse, IndexUnavailable

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

T = TypeVar("T")

BATCH_SIZE = 500
"""Vectors sent to Chroma at a time; its own limit is in the thousands."""

TIMEOUT_SECONDS = 30.0
"""The time that a Chroma server may take for one call."""


class ChromaIndex:
    """One collection of unit vectors, compared by cosine. Opened when it is first used. Any thread.

    Vectors of different embedders cannot be in one collection: `name` tells them apart.
    """

    def __init__(self, *, path: Path, url: str, name: str) -> None:
        self._path = path
        self._url = url
        self._name = name
        self._claim = FileLock(path.with_name(f"{path.name}.lock"), thread_local=False)
        self._opening = threading.RLock()
        self._client: ClientAPI | None = None
        self._collection: Collection | None = None

    @property
    def absent(self) -> bool:
        """True if it is an embedded index that was never made."""
        return not self._url and not self._path.exists()

    @property
    def where(self) -> str:
        """The folder or the server, for people."""
        return self._url or str(self._path)

    @property
    def identity(self) -> str:
        """The name of this index among all; its vectors are in no other one."""
        return f"{self._url or 'embedded'}#{self._name}"

    def open(self) -> None:
        """Open the index. Raises `IndexInUse` or `IndexUnavailable`; may be tried again then."""
        with self._opening:
            if self._collection is not None:
                return
            try:
                with _translated(self.where):
                    self._client = self._connect()
                    self._collection = self._make_collection(self._client)
            except (IndexUnavailable, IndexInUse):
                self.close()
                raise

    def upsert(self, ids: Sequence[int], vectors: Sequence[Vector]) -> None:
        """Add vectors, or replace those under the same ids."""
        for start in range(0, len(ids), BATCH_SIZE):
            part = slice(start, start + BATCH_SIZE)
            self._ask(partial(_upsert, ids=ids[part], vectors=vectors[part]))

    def delete(self, ids: Sequence[int]) -> None:
        """Delete vectors; ids that are not there are ignored."""
        for start in range(0, len(ids), BATCH_SIZE):
            self._ask(partial(_delete, ids=ids[start : start + BATCH_SIZE]))

    def nearest(self, vector: Vector, count: int) -> list[tuple[int, float]]:
        """Return the nearest ids with their cosine similarities, nearest first."""
        found = self._ask(
            lambda chroma: chroma.query(
                query_embeddings=list(vector), n_results=count, include=["distances"]
            )
        )
        distances: Any = found["distances"]
        return [
            (int(each), 1.0 - float(distance))
            for each, distance in zip(found["ids"][0], distances[0], strict=True)
        ]

    def ids(self) -> set[int]:
        """Return every id that has a vector here."""
        return {int(each) for each in self._ask(lambda chroma: chroma.get(include=[]))["ids"]}

    def count(self) -> int:
        """Return the number of vectors."""
        return self._ask(lambda chroma: chroma.count())

    def drop(self) -> None:
        """Delete every vector, and a damaged folder. Raises `IndexInUse` or `IndexUnavailable`."""
        with self._opening:
            try:
                self.open()
            except IndexUnavailable:
                self._clear_folder()
                self.open()
                return
            assert self._client is not None
            with _translated(self.where):
                self._client.delete_collection(self._name)
                self._collection = self._make_collection(self._client)

    def close(self) -> None:
        """Close the index, so that another process can open it."""
        with self._opening:
            if self._client is not None:
                self._disconnect(self._client)
            self._collection = self._client = None
            self._claim.release(force=True)

    def _ask(self, question: "Callable[[Collection], T]") -> T:
        import chromadb.errors

        self.open()
        assert self._collection is not None
        with _translated(self.where):
            try:
                return question(self._collection)
            except chromadb.errors.NotFoundError:  # another process has dropped it meanwhile
                assert self._client is not None
                self._collection = self._make_collection(self._client)
                return question(self._collection)

    def _connect(self) -> "ClientAPI":
        import chromadb  # takes half a second, and not every command needs it
        from chromadb.config import Settings

        settings = Settings(anonymized_telemetry=False)
        if not self._url:
            self._take_folder()
            return chromadb.PersistentClient(str(self._path), settings=settings)
        httpx.get(f"{self._url}/api/v2/heartbeat", timeout=TIMEOUT_SECONDS).raise_for_status()
        parts = urlsplit(self._url)
        client = chromadb.HttpClient(
            host=parts.hostname or "",
            port=parts.port or (443 if parts.scheme == "https" else 80),
            ssl=parts.scheme == "https",
            settings=settings,
        )
        for session in _sessions(client):
            session.timeout = TIMEOUT_SECONDS  # Chroma waits for ever and has no setting for it
        return client

    def _disconnect(self, client: "ClientAPI") -> None:
        if self._url:
            for session in _sessions(client):
                session.close()  # Chroma leaves its sockets open
        client.close()  # type: ignore[attr-defined]  # missing in its interface

    def _take_folder(self) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        try:
            self._claim.acquire(timeout=0)
        except Timeout:
            raise IndexInUse(str(self._path)) from None

    def _clear_folder(self) -> None:
        if self._url:
            raise IndexUnavailable(f"the Chroma server {self._url} cannot be used")
        with _translated(self.where):
            self._take_folder()
            shutil.rmtree(self._path)

    def _make_collection(self, client: "ClientAPI") -> "Collection":
        return client.get_or_create_collection(
            self._name, embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
        )


def _upsert(chroma: "Collection", *, ids: Sequence[int], vectors: Sequence[Vector]) -> None:
    chroma.upsert(ids=[str(each) for each in ids], embeddings=list(vectors))


def _delete(chroma: "Collection", *, ids: Sequence[int]) -> None:
    chroma.delete(ids=[str(each) for each in ids])


def _sessions(client: "ClientAPI") -> list[httpx.Client]:
    admin: Any = getattr(client, "_admin_client")  # noqa: B009  # private, and the only way to it
    server: Any = getattr(client, "_server")  # noqa: B009
    return [server._session, admin._server._session]


@contextmanager
def _translated(where: str) -> Iterator[None]:
    import chromadb.errors
    from chromadb.api.shared_system_client import SharedSystemClient

    try:
        yield
    # pyo3's PanicException is how Chroma's core reports a damaged folder; it is not an Exception.
    except BaseException as error:
        expected = (chromadb.errors.ChromaError, httpx.HTTPError, ValueError, OSError, RuntimeError)
        broken = isinstance(error, (*expected, AttributeError))
        if broken or type(error).__name__ == "PanicException":
            SharedSystemClient.clear_system_cache()  # or it hands out the broken one again
            raise IndexUnavailable(
                f"the knowledge index in {where} cannot be used: {error}; "
                "check RATCHET_CHROMA_URL, or rebuild it with `ratchet knowledge reindex`"
            ) from error
        raise
