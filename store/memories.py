"""Fast memory: answers that people liked or corrected, recalled when a question is like theirs.

Invariant: SQL says what is remembered, and for whom; the index only finds what is close. So a
rating that is taken back, or a person who is erased, is forgotten in the same moment.
"""

import logging
import threading
from collections.abc import Sequence

from sqlalchemy import ColumnElement, Select, func, or_, select
from sqlalchemy.orm import Session

from store.database import Database
from store.domain import Access, Memory, TurnState
from store.embedder import Embedder
from store.errors import IndexUnavailable, TurnNotFound
from store.groups import turns_of_silent_groups
from store.index import ChromaIndex
from store.suspects import held_back
from store.tables import (
    ApprovalRow,
    ConversationRow,
    CorrectionRow,
    FeedbackRow,
    GroupRulesRow,
    PersonRow,
    TurnRow,
)

logger = logging.getLogger(__name__)

NEIGHBOURS = 256
"""Questions looked at for one that is asked; most may belong to other chats."""

REMEMBERED = 20_000
"""The newest answers that are kept findable."""

EMBEDDED_AT_ONCE = 64


class Memories:
    """What can be recalled in one database. Any thread."""

    def __init__(self, database: Database, index: ChromaIndex, embedder: Embedder) -> None:
        self._database = database
        self._index = index
        self._embedder = embedder
        self._catching_up = threading.Lock()
        self._seen: tuple[object, ...] | None = None
        self._size = 0

    def recall(
        self, question: str, *, chat_id: int, conversation_id: int, count: int, floor: float
    ) -> tuple[Memory, ...]:
        """The answers to the closest questions of this chat, and of others once approved.

        What was liked in the conversation itself is left out: it is history, or is just being
        answered again. `floor` is the least cosine similarity of two questions. Closest first.
        Raises `IndexInUse`, `IndexUnavailable` or `EmbedderNotFound`.
        """
        if self._index.absent:  # to make it takes a while, and there may be no need
            with self._database.reading() as session:
                if session.scalar(_worth_remembering().limit(1)) is None:
                    return ()
        self._catch_up()
        if self._index.count() == 0:
            return ()
        vector = self._embedder.embed([question])[0]
        close = {
            turn_id: min(score, 1.0)
            for turn_id, score in self._index.nearest(vector, NEIGHBOURS)
            if score >= floor
        }
        with self._database.reading() as session:
            visible = or_(_here(chat_id), _approved()) & _news_to(conversation_id)
            found = _answers(session, visible, list(close))
        found.sort(key=lambda row: close[row[0]], reverse=True)
        best: dict[str, Memory] = {}
        for turn_id, asked, answer in found:
            best.setdefault(
                asked.casefold().strip(),
                Memory(turn_id=turn_id, question=asked, answer=answer, score=close[turn_id]),
            )
        return tuple(best.values())[:count]

    def approve(self, turn_id: int, person_id: int) -> None:
        """Let a liked or corrected answer help in every chat. Raises `TurnNotFound`."""
        with self._database.session() as session:
            liked = _worth_remembering().where(TurnRow.id == turn_id)
            if abs(turn_id) >= 2**63 or session.scalar(liked) is None:
                raise TurnNotFound(turn_id)
            if session.get(ApprovalRow, turn_id) is None:
                session.add(
                    ApprovalRow(
                        turn_id=turn_id, person_id=person_id, created_at=self._database.now()
                    )
                )

    def waiting(self, limit: int = 5) -> tuple[Memory, ...]:
        """Answers that help in their own chat alone, newest first; `approve` lets them out."""
        with self._database.reading() as session:
            found = _answers(session, ~_approved(), None, limit=limit)
        return tuple(
            Memory(turn_id=turn_id, question=asked, answer=answer, score=1.0)
            for turn_id, asked, answer in found
        )

    def close(self) -> None:
        """Let another process have the index."""
        self._index.close()

    def _catch_up(self) -> None:
        """Bring the index to what SQL says, if anything was rated or corrected meanwhile."""
        with self._catching_up:
            try:
                self._index.open()
            except IndexUnavailable as error:
                logger.warning("the index of earlier answers is made anew: %s", error)
                self._index.drop()
            with self._database.reading() as session:
                seen = _state(session)
                if seen == self._seen and self._index.count() == self._size:
                    return
                wanted = set(session.scalars(_worth_remembering().limit(REMEMBERED)))
                there = self._index.ids()
                missing = session.execute(
                    select(TurnRow.id, TurnRow.question).where(TurnRow.id.in_(wanted - there))
                ).all()
            self._index.delete(sorted(there - wanted))
            for start in range(0, len(missing), EMBEDDED_AT_ONCE):
                part = missing[start : start + EMBEDDED_AT_ONCE]
                vectors = self._embedder.embed([question for _, question in part])
                self._index.upsert([turn_id for turn_id, _ in part], vectors)
            self._seen, self._size = seen, self._index.count()


def _state(session: Session) -> tuple[object, ...]:
    """Changes with what people say, take back or opt out of, who is erased, denied or held back."""
    given = (
        select(
            func.count(),
            func.max(FeedbackRow.id),
            func.sum(FeedbackRow.turn_id),  # ids are given anew once the last row is erased
            func.max(FeedbackRow.created_at),
            func.count(FeedbackRow.replaced_at),
        ),
        select(
            func.count(),
            func.max(CorrectionRow.id),
            func.sum(CorrectionRow.turn_id),
            func.max(CorrectionRow.created_at),
        ),
        select(func.count()).where(PersonRow.opted_out),
        select(func.count()).where(PersonRow.access == Access.DENIED),
        select(func.count()).select_from(held_back().subquery()),
        select(func.count(), func.max(GroupRulesRow.decided_at)),
    )
    return tuple(tuple(session.execute(each).one()) for each in given)


def _worth_remembering() -> Select[int]:
    """Turns that more people liked than disliked, or that somebody corrected; newest first."""
    liked = (
        select(FeedbackRow.turn_id)
        .join(PersonRow, PersonRow.id == FeedbackRow.person_id)
        .where(FeedbackRow.replaced_at.is_(None), _may_teach())
        .group_by(FeedbackRow.turn_id)
        .having(func.sum(FeedbackRow.rating) > 0)
    )
    asked_first = (
        select(TurnRow.id).join(PersonRow, PersonRow.id == TurnRow.person_id).where(_may_teach())
    )
    return (
        select(TurnRow.id)
        .join(PersonRow, PersonRow.id == TurnRow.person_id)
        .where(
            or_(TurnRow.id.in_(liked), TurnRow.id.in_(_corrected())),
            or_(TurnRow.regenerates_id.is_(None), TurnRow.regenerates_id.in_(asked_first)),
            TurnRow.state == TurnState.FINAL,
            TurnRow.completion != "",
            TurnRow.id.not_in(turns_of_silent_groups()),
            _may_teach(),
        )
        .order_by(TurnRow.id.desc())
    )


def _may_teach() -> ColumnElement[bool]:
    admitted = PersonRow.opted_out.is_(False) & (PersonRow.access != Access.DENIED)
    return admitted & PersonRow.id.not_in(held_back())


def _corrected() -> Select[int]:
    return (
        select(CorrectionRow.turn_id)
        .join(PersonRow, PersonRow.id == CorrectionRow.person_id)
        .where(CorrectionRow.text != "", _may_teach())
    )


def _answers(
    session: Session,
    where: ColumnElement[bool],
    turn_ids: Sequence[int] | None,
    *,
    limit: int | None = None,
) -> list[tuple[int, str, str]]:
    """Turn id, question and what to answer: the last correction, or else the reply."""
    correction = (
        select(CorrectionRow.text)
        .join(PersonRow, PersonRow.id == CorrectionRow.person_id)
        .where(CorrectionRow.turn_id == TurnRow.id, CorrectionRow.text != "", _may_teach())
        .order_by(CorrectionRow.id.desc())
        .limit(1)
        .correlate(TurnRow)
        .scalar_subquery()
    )
    query = (
        select(TurnRow.id, TurnRow.question, func.coalesce(correction, TurnRow.completion))
        .where(TurnRow.id.in_(_worth_remembering().order_by(None)), where)
        .order_by(TurnRow.id.desc())
        .limit(limit)
    )
    if turn_ids is not None:
        query = query.where(TurnRow.id.in_(turn_ids))
    return [(turn_id, asked, answer) for turn_id, asked, answer in session.execute(query)]


def _here(chat_id: int) -> ColumnElement[bool]:
    return TurnRow.conversation_id.in_(
        select(ConversationRow.id).where(ConversationRow.chat_id == chat_id)
    )


def _news_to(conversation_id: int) -> ColumnElement[bool]:
    """A liked reply of the conversation stands in its history; a correction does not."""
    return or_(TurnRow.conversation_id != conversation_id, TurnRow.id.in_(_corrected()))


def _approved() -> ColumnElement[bool]:
    return TurnRow.id.in_(select(ApprovalRow.turn_id))
