"""Vectors of remembered questions, kept in the process so that a recall reads only new ones.

Invariant: what is kept is never trusted. Each look asks SQL which memories there are; a memory that
is gone, or that may not be recalled any more, is dropped before anything is compared.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from store.database import in_parts
from store.tables import ApprovalRow, MemoryRow

MOST_VECTORS = 5_000
"""The number of newest answers of a chat, and of newest approved ones, that are compared."""

MOST_KEPT = 20_000
"""The number of vectors that are kept, of the chats that asked last: 30 MB with 384 dimensions."""

LARGE_PRIME = 2_147_483_647
"""Modulus that keeps a sum of squares of ids within 64 bits."""

Vectors = npt.NDArray[np.float32]


class Near(NamedTuple):
    """A memory near a question; `score` is the cosine similarity."""

    turn_id: int
    chat_id: int
    score: float


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """The vectors of a scope, and the mark of the ids that they belong to."""

    mark: tuple[int, int, int, int]
    """Number, sum, sum of squares and greatest of the ids, to tell whether they have changed."""
    ids: Sequence[int]
    chats: npt.NDArray[np.int64]
    matrix: Vectors
    """One row for each id."""


_NOTHING = _Kept(
    mark=(0, 0, 0, 0), ids=(), chats=np.empty(0, np.int64), matrix=np.empty((0, 0), np.float32)
)


@dataclass(frozen=True, kw_only=True)
class Comparable:
    """The memories that a question of one chat is compared with."""

    chat_id: int
    own: _Kept
    approved: _Kept
    """Approved ones of all chats, this one included."""

    def __bool__(self) -> bool:
        return bool(self.own.ids or self.approved.ids)

    def nearest(self, vector: Vectors, *, floor: float, count: int) -> list[Near]:
        """Return the memories nearest to a vector, nearest first.

        `vector` has the embedder's dimensions and length 1; so have those it is compared with.
        """
        found: list[Near] = []
        for kept, is_compared in (
            (self.own, self.own.chats == self.chat_id),
            (self.approved, self.approved.chats != self.chat_id),
        ):
            if kept.ids:
                scores = np.where(is_compared, kept.matrix @ vector, -np.inf)
                order = np.argsort(-scores, kind="stable")[:count]
                found += [
                    Near(kept.ids[place], int(kept.chats[place]), min(float(scores[place]), 1.0))
                    for place in order
                    if scores[place] >= floor
                ]
        return sorted(found, key=lambda near: -near.score)[:count]


class MemoryVectors:
    """The vectors that one embedder made for the memories of one database. Any thread."""

    def __init__(self, embedder: str) -> None:
        self._embedder = embedder
        self._lock = threading.Lock()
        self._kept: OrderedDict[int | None, _Kept] = OrderedDict()

    def comparable(self, session: Session, chat_id: int) -> Comparable:
        """Return a chat's memories and approved ones, as they are now."""
        return Comparable(
            chat_id=chat_id,
            own=self._current(session, chat_id),
            approved=self._current(session, None),
        )

    def _current(self, session: Session, scope: int | None) -> _Kept:
        """Return the vectors of a chat, or (None) of approved answers, as SQL has them now."""
        with self._lock:
            kept = self._kept.get(scope, _NOTHING)
        of_scope = self._of(scope).subquery()
        ids = of_scope.c.turn_id
        squares = func.sum(ids * ids % LARGE_PRIME)
        row = session.execute(select(func.count(), func.sum(ids), squares, func.max(ids))).one()
        mark = (row[0], int(row[1] or 0), int(row[2] or 0), row[3] or 0)
        if mark != kept.mark:
            kept = self._read(session, scope, kept, mark)
        with self._lock:
            self._kept[scope] = kept
            self._kept.move_to_end(scope)
            while sum(len(each.ids) for each in self._kept.values()) > MOST_KEPT:
                self._kept.popitem(last=False)
        return kept

    def _read(
        self, session: Session, scope: int | None, before: _Kept, mark: tuple[int, int, int, int]
    ) -> _Kept:
        """Read the ids of a scope, and the vectors of those that are not kept."""
        chats = dict(session.execute(self._of(scope)).all())
        known = {turn_id: before.matrix[place] for place, turn_id in enumerate(before.ids)}
        known |= _vectors(session, chats.keys() - known.keys())
        ids = [turn_id for turn_id in chats if turn_id in known]
        if not ids:
            return _NOTHING
        return _Kept(
            mark=mark,
            ids=ids,
            chats=np.array([chats[turn_id] for turn_id in ids], np.int64),
            matrix=np.stack([known[turn_id] for turn_id in ids]),
        )

    def _of(self, scope: int | None) -> Select[int, int]:
        """Select turn and chat of the newest memories of a scope that have a vector."""
        memories = select(MemoryRow.turn_id, MemoryRow.chat_id).limit(MOST_VECTORS)
        if scope is not None:
            is_of_chat = MemoryRow.chat_id == scope, MemoryRow.embedder == self._embedder
            return memories.where(*is_of_chat).order_by(MemoryRow.turn_id.desc())
        # An index on `embedder` would lead to nearly all memories: `coalesce` keeps SQLite from it.
        is_approved = (
            ApprovalRow.approved.is_(True),
            func.coalesce(MemoryRow.embedder, "") == self._embedder,
        )
        approved = memories.join(ApprovalRow, ApprovalRow.turn_id == MemoryRow.turn_id)
        return approved.where(*is_approved).order_by(ApprovalRow.turn_id.desc())


def _vectors(session: Session, ids: Iterable[int]) -> dict[int, Vectors]:
    found: dict[int, Vectors] = {}
    for part in in_parts(ids):
        rows = session.execute(
            select(MemoryRow.turn_id, MemoryRow.vector).where(MemoryRow.turn_id.in_(part))
        )
        found |= {
            turn_id: np.frombuffer(vector, dtype=np.float32) for turn_id, vector in rows if vector
        }
    return found
