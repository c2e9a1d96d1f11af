"""The knowledge base: documents and chunks in SQL, their vectors in the index.

Invariant: SQL is the truth. A document is added when its rows are committed, and pending until its
vectors are in the index that is in use; a vector whose chunk is gone is never shown, and is
deleted later. So the next indexing repairs a crash, a dropped index or a change of the embedder.
"""

import hashlib
from collections.abc import Callable

from sqlalchemy import Select, delete, func, or_, select, update
from sqlalchemy.orm import Session

from store.database import Database
from store.documents.chunker import chunk
from store.documents.parser import ParsedDocument
from store.documents.sandbox import parse_apart
from store.domain import HEADING_SEPARATOR, AddOutcome, Document, Passage
from store.embedder import Embedder, Vector
from store.erasure import Eraser
from store.errors import DocumentNotFound
from store.index import ChromaIndex
from store.tables import ChunkRow, DocumentRow, TurnPartRow

EMBEDDED_AT_ONCE = 32
"""Chunks embedded in one batch; a question waits for at most one batch."""

OVERLAP_SHARE = 6
"""Divisor: up to a sixth of a chunk may repeat the end of the chunk before it."""


class Documents:
    """The documents of one database, and the index over them. Any thread."""

    def __init__(
        self, database: Database, index: ChromaIndex, embedder: Embedder, *, chunk_chars: int
    ) -> None:
        self._database = database
        self._index = index
        self._embedder = embedder
        self._chunk_chars = chunk_chars
        self._eraser = Eraser(database)

    def add(self, name: str, data: bytes, *, added_by: int) -> tuple[Document, AddOutcome]:
        """Add a file; searches find it once `index_pending` has run.

        The same contents are one document under any name; other contents under a known name
        replace the old version. Raises `DocumentError`, and then nothing has changed.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        with self._database.session() as session:
            same = session.scalars(
                select(DocumentRow).where(
                    DocumentRow.sha256 == sha256, DocumentRow.chunk_chars == self._chunk_chars
                )
            ).first()
            if same is not None:
                if same.name != name:
                    session.execute(delete(DocumentRow).where(DocumentRow.name == name))
                return self._document(session, same), AddOutcome.UNCHANGED
        parsed = parse_apart(name, data)
        with self._database.session() as session:
            old = session.scalars(
                select(DocumentRow).where(
                    or_(DocumentRow.name == name, DocumentRow.sha256 == sha256)
                )
            ).all()
            for number, each in enumerate(old):  # names are unique
                each.name = f"{each.name}\n{number}"
            session.flush()
            row = self._insert(session, name, parsed, sha256, len(data), added_by)
            _hand_over(session, [each.id for each in old], row.id)
            for each in old:
                session.delete(each)
            session.flush()
            outcome = AddOutcome.REPLACED if old else AddOutcome.ADDED
            return self._document(session, row), outcome

    def remove(self, document_id: int) -> Document:
        """Remove a document from the index and from every prompt that quoted it.

        Replies that were written from it leave the history, and are not recalled or trained on.
        Raises `DocumentNotFound`.
        """
        with self._database.reading() as session:
            row = session.get(DocumentRow, document_id) if document_id < 2**63 else None
            if row is None:
                raise DocumentNotFound(document_id)
            document = self._document(session, row)
        self._eraser.erase_document(document_id)
        return document

    def documents(self) -> tuple[Document, ...]:
        """Return every document, by name."""
        with self._database.reading() as session:
            rows = session.scalars(select(DocumentRow).order_by(DocumentRow.name)).all()
            return tuple(self._document(session, row) for row in rows)

    def pending(self) -> int:
        """Return the number of documents that wait to be indexed."""
        with self._database.reading() as session:
            return session.scalar(select(func.count()).select_from(self._pending().subquery())) or 0

    def index_pending(self, progress: Callable[[Document], None] = lambda document: None) -> int:
        """Embed pending documents, delete stale vectors, and return the number of documents.

        Raises `IndexInUse`, `IndexUnavailable` or `EmbedderNotFound`; finished documents stay
        indexed.
        """
        self._index.open()
        self._reconcile()
        indexed = 0
        while (row := self._next_pending()) is not None:
            with self._database.reading() as session:
                document = self._document(session, row)
                chunks = session.scalars(
                    select(ChunkRow).where(ChunkRow.document_id == row.id).order_by(ChunkRow.id)
                ).all()
            for start in range(0, len(chunks), EMBEDDED_AT_ONCE):
                part = chunks[start : start + EMBEDDED_AT_ONCE]
                vectors = self._embedder.embed([_embedded_text(row.title, each) for each in part])
                self._index.upsert([each.id for each in part], vectors)
            with self._database.session() as session:
                kept = session.get(DocumentRow, row.id)
                if kept is not None:
                    kept.indexed_in = self._identity
            if kept is None:  # removed meanwhile
                self._index.delete([each.id for each in chunks])
            indexed += 1
            progress(document)
        return indexed

    def reindex(self, progress: Callable[[Document], None] = lambda document: None) -> int:
        """Drop every vector, embed everything again, and return the number of documents."""
        with self._database.session() as session:
            for row in session.scalars(select(DocumentRow)):
                row.indexed_in = None
        self._index.drop()
        return self.index_pending(progress)

    def search(
        self, question: str, *, count: int, floor: float, margin: float = 2.0
    ) -> tuple[Passage, ...]:
        """Return the passages nearest to a question, best first.

        No score is below `floor`, or more than `margin` below the best one.
        Raises `IndexInUse`, `IndexUnavailable` or `EmbedderNotFound`.
        """
        if count == 0 or not question.strip() or not self._has_chunks():
            return ()
        self._index.open()  # before the embedder is loaded for nothing
        [vector] = self._embedder.embed([question])
        hits = self._living_hits(vector, count, floor)
        with self._database.reading() as session:
            rows: dict[int, tuple[ChunkRow, DocumentRow]] = {
                chunk_row.id: (chunk_row, document_row)
                for chunk_row, document_row in session.execute(
                    select(ChunkRow, DocumentRow)
                    .join(DocumentRow, DocumentRow.id == ChunkRow.document_id)
                    .where(ChunkRow.id.in_([hit[0] for hit in hits]))
                )
            }
        found = [_passage(*rows[chunk_id], score) for chunk_id, score in hits if chunk_id in rows]
        near = [passage for passage in found if passage.score >= found[0].score - margin]
        return tuple(near[:count])

    def settled(self) -> bool:
        """Return whether the index agrees with SQL, as far as counting tells.

        Raises `IndexInUse` or `IndexUnavailable`.
        """
        with self._database.reading() as session:
            chunks = session.scalar(select(func.count()).select_from(ChunkRow)) or 0
        return self.pending() == 0 and (chunks == 0 or self._index.count() == chunks)

    def close(self) -> None:
        """Close the index, so that another process can open it."""
        self._index.close()

    @property
    def _identity(self) -> str:
        return f"{self._index.identity}:{self._embedder.name}"

    def _pending(self) -> Select[DocumentRow]:
        return select(DocumentRow).where(
            or_(DocumentRow.indexed_in.is_(None), DocumentRow.indexed_in != self._identity)
        )

    def _next_pending(self) -> DocumentRow | None:
        with self._database.reading() as session:
            return session.scalars(self._pending().order_by(DocumentRow.id).limit(1)).first()

    def _living_hits(self, vector: Vector, count: int, floor: float) -> list[tuple[int, float]]:
        """Return the nearest vectors whose chunks still exist, and delete the others."""
        while True:
            hits = [hit for hit in self._index.nearest(vector, count) if hit[1] >= floor]
            with self._database.reading() as session:
                living = set(
                    session.scalars(
                        select(ChunkRow.id).where(ChunkRow.id.in_([hit[0] for hit in hits]))
                    )
                )
            gone = [chunk_id for chunk_id, _ in hits if chunk_id not in living]
            if not gone:
                return hits
            self._index.delete(gone)

    def _has_chunks(self) -> bool:
        with self._database.reading() as session:
            return session.scalars(select(ChunkRow.id).limit(1)).first() is not None

    def _reconcile(self) -> None:
        """Delete vectors whose chunks are gone, and mark documents whose vectors are gone."""
        # Read before SQL: another process may be adding a document, and rows come before vectors.
        present = self._index.ids()
        with self._database.reading() as session:
            indexed = dict(
                session.execute(
                    select(ChunkRow.id, ChunkRow.document_id)
                    .join(DocumentRow, DocumentRow.id == ChunkRow.document_id)
                    .where(DocumentRow.indexed_in == self._identity)
                ).all()
            )
            chunks = set(session.scalars(select(ChunkRow.id)))
        self._index.delete(sorted(present - chunks))
        bereft = {indexed[chunk_id] for chunk_id in indexed.keys() - present}
        with self._database.session() as session:
            for document_id in bereft:
                row = session.get(DocumentRow, document_id)
                if row is not None:
                    row.indexed_in = None

    def _insert(
        self,
        session: Session,
        name: str,
        parsed: ParsedDocument,
        sha256: str,
        size_bytes: int,
        added_by: int,
    ) -> DocumentRow:
        row = DocumentRow(
            name=name,
            title=parsed.title,
            media_type=parsed.media_type,
            sha256=sha256,
            size_bytes=size_bytes,
            chunk_chars=self._chunk_chars,
            indexed_in=None,
            added_by=added_by,
            created_at=self._database.now(),
        )
        session.add(row)
        session.flush()
        session.add_all(
            ChunkRow(
                document_id=row.id,
                ordinal=piece.ordinal,
                section=_below_title(piece.section, parsed.title),
                text=piece.text,
            )
            for piece in chunk(
                parsed,
                max_chars=self._chunk_chars,
                overlap_chars=self._chunk_chars // OVERLAP_SHARE,
            )
        )
        session.flush()
        return row

    def _document(self, session: Session, row: DocumentRow) -> Document:
        chunks = session.scalar(
            select(func.count()).select_from(ChunkRow).where(ChunkRow.document_id == row.id)
        )
        return Document(
            id=row.id,
            name=row.name,
            title=row.title,
            media_type=row.media_type,
            sha256=row.sha256,
            size_bytes=row.size_bytes,
            chunks=chunks or 0,
            indexed=row.indexed_in == self._identity,
            added_by=row.added_by,
            created_at=row.created_at,
        )


def _hand_over(session: Session, old_ids: list[int], new_id: int) -> None:
    """Let prompts that quote a replaced document refer to the same text in the new one."""
    texts = select(ChunkRow.text, ChunkRow.id)
    kept = dict(session.execute(texts.where(ChunkRow.document_id == new_id)).all())
    for text, old_id in session.execute(texts.where(ChunkRow.document_id.in_(old_ids))).all():
        if text in kept:
            session.execute(
                update(TurnPartRow)
                .where(TurnPartRow.chunk_id == old_id)
                .values(chunk_id=kept[text])
            )


def _below_title(section: str, title: str) -> str:
    # The first heading of most files is their title, which every passage shows anyway.
    first, _, rest = section.partition(HEADING_SEPARATOR)
    return rest if first == title else section


def _embedded_text(title: str, piece: ChunkRow) -> str:
    # The headings say what a passage is about when its own words do not.
    return f"{HEADING_SEPARATOR.join(filter(None, (title, piece.section)))}\n{piece.text}"


def _passage(piece: ChunkRow, document: DocumentRow, score: float) -> Passage:
    return Passage(
        chunk_id=piece.id,
        document_id=document.id,
        title=document.title,
        section=piece.section,
        text=piece.text,
        score=round(score, 4),
    )
