"""Fast memory: answers that people liked or corrected, recalled when a question is like theirs.

A chat's own answers are recalled as they are now. In other chats only approved copies are: the
words that an admin read, masked, and no others.

Invariant: SQL holds everything, vectors included, so that a rating taken back or a person erased is
forgotten in the same transaction. Every recall asks anew who may teach.
"""

import hashlib
import logging
import threading
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from sqlalchemy import ColumnElement, and_, delete, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased, load_only

from store.database import Database, Lock
from store.domain import Memory, Proposal, Rating
from store.embedder import Embedder, Vector
from store.errors import AnswerChanged, TurnNotFound
from store.memory_vectors import MemoryVectors, Near
from store.opinions import Opinion, read_opinions
from store.tables import (
    ApprovalRow,
    ConversationRow,
    CorrectionRow,
    FeedbackRow,
    MemoryRow,
    TurnRow,
)
from store.teaching import TeachingRule

logger = logging.getLogger(__name__)

NEIGHBOURS = 64
"""The number of nearest questions whose answers are checked before one is recalled."""

NEIGHBOURS_AT_ONCE = 8
"""The number of them that are checked together; the nearest few are enough most times."""

PROPOSED_AT_ONCE = 20
"""The number of undecided answers that are looked at together."""

EMBEDDED_AT_ONCE = 64

MOST_EMBEDDED = 512
"""The number of questions embedded before one reply; later replies embed the rest."""

WITHHELD = ""
"""The embedder of a row whose answer may not be recalled, and which so has no vector."""

_WORDS = load_only(TurnRow.conversation_id, TurnRow.question, TurnRow.completion)
"""The columns of turns that are recalled: their prompts take ten times as long to read."""


class _Answer(NamedTuple):
    memory: Memory
    support: int


class Memories:
    """The answers of one database that can be recalled. Any thread."""

    def __init__(
        self, database: Database, embedder: Embedder, rule: TeachingRule | None = None
    ) -> None:
        self._database = database
        self._embedder = embedder
        self._rule = rule or TeachingRule()
        self._vectors = MemoryVectors(embedder.name)
        self._embedding = threading.Lock()
        self._is_current = False

    def recall(
        self, question: str, *, chat_id: int, conversation_id: int, count: int, floor: float
    ) -> tuple[Memory, ...]:
        """Return the answers to the questions nearest to this one, nearest first.

        They are this chat's answers, and approved copies of others'. From the conversation itself
        only corrected answers are taken: the rest is history. `floor` is the least cosine
        similarity of two questions. Of answers to the same question, the one that most people stand
        for is returned, the newest of several. Raises `EmbedderNotFound`.
        """
        self.embed_pending()
        with self._database.reading() as session:
            comparable = self._vectors.comparable(session, chat_id)
        if not comparable or count == 0:
            return ()
        vector = np.asarray(self._embedder.embed([question])[0], dtype=np.float32)
        near = comparable.nearest(vector, floor=floor, count=NEIGHBOURS)
        best: dict[str, _Answer] = {}
        with self._database.reading() as session:
            for start in range(0, len(near), NEIGHBOURS_AT_ONCE):
                part = near[start : start + NEIGHBOURS_AT_ONCE]
                for answer in self._answers(session, part, chat_id, conversation_id):
                    question = answer.memory.question.casefold().strip()
                    if question not in best or answer.support > best[question].support:
                        best[question] = answer
                if len(best) >= count:
                    break
        return tuple(answer.memory for answer in best.values())[:count]

    def embed_pending(self) -> None:
        """Embed questions that wait, and drop the vectors of answers that may not be recalled."""
        with self._embedding:
            if not self._is_current:
                with self._database.session() as session:
                    session.execute(
                        update(MemoryRow)
                        .where(MemoryRow.embedder != self._embedder.name)
                        .values(embedder=None)
                    )
                self._is_current = True
            done = 0
            while done < MOST_EMBEDDED and (part := self._pending()):
                self._embed(part)
                done += len(part)

    def proposals(self, limit: int = 5) -> tuple[Proposal, ...]:
        """Return answers that no admin has decided about, newest first."""
        undecided = exists().where(
            TurnRow.id == MemoryRow.turn_id, self._rule.turns, ~_is_decided()
        )
        newest_first = select(MemoryRow.turn_id).where(undecided).order_by(MemoryRow.turn_id.desc())
        found: list[Proposal] = []
        with self._database.reading() as session:
            page = session.scalars(newest_first.limit(PROPOSED_AT_ONCE)).all()
            while page and len(found) < limit:
                opinions = self._opinions(session, page)
                proposed = (_proposal(row, opinions[row.id]) for row in _turns(session, page))
                found += [proposal for proposal in proposed if proposal is not None]
                older = newest_first.where(MemoryRow.turn_id < page[-1])
                page = session.scalars(older.limit(PROPOSED_AT_ONCE)).all()
        return tuple(found[:limit])

    def decide(self, turn_id: int, sha256: str, admin_id: int, *, approved: bool) -> None:
        """Record an admin's decision on a proposal; an approved answer helps in every chat.

        `sha256` is the proposal's, or its beginning. An approved copy takes the place of an older
        one of the same turn. Raises `TurnNotFound`, or `AnswerChanged` if the answer is another
        one now.
        """
        with self._database.session() as session:
            if abs(turn_id) >= 2**63:
                raise TurnNotFound(turn_id)
            teaching = select(TurnRow).where(TurnRow.id == turn_id, self._rule.turns)
            row = session.scalars(teaching).first()
            if row is None or session.get(MemoryRow, turn_id) is None:
                raise TurnNotFound(turn_id)
            proposal = _proposal(row, self._opinions(session, [turn_id])[turn_id])
            if proposal is None or not sha256 or not proposal.sha256.startswith(sha256):
                raise AnswerChanged(turn_id)
            of_turn = delete(ApprovalRow).where(ApprovalRow.turn_id == turn_id)
            if not approved:
                of_turn = of_turn.where(ApprovalRow.sha256 == proposal.sha256)
            session.execute(of_turn)
            session.add(
                ApprovalRow(
                    turn_id=turn_id,
                    correction_id=proposal.correction_id,
                    approved=approved,
                    question=proposal.question if approved else "",
                    answer=proposal.answer if approved else "",
                    sha256=proposal.sha256,
                    person_id=admin_id,
                    created_at=self._database.now(),
                )
            )

    def _answers(
        self, session: Session, near: Sequence[Near], chat_id: int, conversation_id: int
    ) -> list[_Answer]:
        ids = [each.turn_id for each in near]
        rows = {
            row.id: row
            for row in session.scalars(
                select(TurnRow).options(_WORDS).where(TurnRow.id.in_(ids), self._rule.turns)
            )
        }
        opinions = self._opinions(session, rows)
        elsewhere = [each.turn_id for each in near if each.chat_id != chat_id]
        copies = _approved_copies(session, elsewhere, self._rule) if elsewhere else {}
        found = []
        for each in near:
            row = rows.get(each.turn_id)
            if row is None:
                continue
            if each.chat_id == chat_id:
                memory = _own(row, opinions[row.id], each.score, conversation_id)
            else:
                memory = _copied(copies.get(row.id), opinions[row.id], each.score)
            if memory is not None:
                found.append(_Answer(memory, opinions[row.id].support))
        return found

    def _opinions(self, session: Session, turn_ids: Collection[int]) -> dict[int, Opinion]:
        known = read_opinions(
            session, turn_ids, ratings=self._rule.ratings, corrections=self._rule.corrections
        )
        return {turn_id: known.get(turn_id, Opinion()) for turn_id in turn_ids}

    def _pending(self) -> list[tuple[int, str, bool]]:
        """Return id, question and whether it may teach, for turns that wait for a vector."""
        with self._database.reading() as session:
            waiting = session.execute(
                select(MemoryRow.turn_id, TurnRow.question)
                .join(TurnRow, TurnRow.id == MemoryRow.turn_id)
                .where(MemoryRow.embedder.is_(None))
                .order_by(MemoryRow.turn_id.desc())
                .limit(EMBEDDED_AT_ONCE)
            ).all()
            if not waiting:
                return []
            ids = [turn_id for turn_id, _ in waiting]
            teaching = set(
                session.scalars(select(TurnRow.id).where(TurnRow.id.in_(ids), self._rule.turns))
            )
        return [(turn_id, question, turn_id in teaching) for turn_id, question in waiting]

    def _embed(self, part: Sequence[tuple[int, str, bool]]) -> None:
        wanted = [(turn_id, question) for turn_id, question, teaches in part if teaches]
        vectors = self._embedder.embed([question for _, question in wanted]) if wanted else []
        made = {
            turn_id: _bytes(vector) for (turn_id, _), vector in zip(wanted, vectors, strict=True)
        }
        with self._database.session() as session:
            self._database.lock(session, Lock.MEMORIES)
            for turn_id, _, _ in part:
                vector = made.get(turn_id)
                session.execute(
                    update(MemoryRow)
                    .where(MemoryRow.turn_id == turn_id, MemoryRow.embedder.is_(None))
                    .values(vector=vector, embedder=self._embedder.name if vector else WITHHELD)
                )


def remember(session: Session, turn_ids: Iterable[int]) -> None:
    """Note turns that somebody likes or corrected; forget those that nobody does any more.

    It is called in the transaction of a rating or a correction. Whose opinion counts is left to the
    recall, which asks the rule anew.
    """
    for turn_id in sorted(turn_ids):
        corrected = session.scalar(
            select(CorrectionRow.id)
            .where(CorrectionRow.turn_id == turn_id, CorrectionRow.text != "")
            .limit(1)
        )
        row = session.get(MemoryRow, turn_id)
        if corrected is None and not session.scalar(select(_is_liked(turn_id))):
            if row is not None:
                session.delete(row)
        elif row is None:
            chat_id = session.scalar(
                select(ConversationRow.chat_id)
                .join(TurnRow, TurnRow.conversation_id == ConversationRow.id)
                .where(TurnRow.id == turn_id)
            )
            if chat_id is not None:
                session.add(MemoryRow(turn_id=turn_id, chat_id=chat_id, vector=None, embedder=None))
        elif row.embedder == WITHHELD:
            row.embedder = None
    session.flush()


def _is_liked(turn_id: int) -> ColumnElement[bool]:
    return exists().where(
        FeedbackRow.turn_id == turn_id,
        FeedbackRow.replaced_at.is_(None),
        FeedbackRow.rating == Rating.UP,
    )


def reconsider(session: Session, memories: ColumnElement[bool]) -> None:
    """Drop the vectors of memories that meet a condition; those that may teach get new ones.

    It is called in the transaction of a decision on a person or a group. The bytes of the vectors
    are overwritten in the log, too.
    """
    if drop_vectors(session, memories):
        Database.scrub_after(session)


def drop_vectors(session: Session, memories: ColumnElement[bool]) -> bool:
    """Drop the vectors of memories that meet a condition; return whether there were any."""
    Database.lock(session, Lock.MEMORIES)
    dropped = session.scalars(
        update(MemoryRow)
        .where(memories)
        .values(vector=None, embedder=None)
        .returning(MemoryRow.turn_id)
    )
    return bool(dropped.all())


def retry_withheld(session: Session) -> None:
    """Ask anew about all memories that are withheld.

    It is called in the transaction of a decision that lets somebody teach: their words may stand in
    the prompts of others.
    """
    Database.lock(session, Lock.MEMORIES)
    withheld = MemoryRow.embedder == WITHHELD
    session.execute(update(MemoryRow).where(withheld).values(embedder=None))


def of_person(person_id: int) -> ColumnElement[bool]:
    """Return the condition for memories of turns whose question or correction is a person's."""
    first = aliased(TurnRow)
    asked = select(TurnRow.id).where(TurnRow.person_id == person_id)
    asked_again = select(TurnRow.id).join(
        first, and_(first.id == TurnRow.regenerates_id, first.person_id == person_id)
    )
    corrected = select(CorrectionRow.turn_id).where(CorrectionRow.person_id == person_id)
    return MemoryRow.turn_id.in_(asked.union(asked_again, corrected))


def of_chat(chat_id: int) -> ColumnElement[bool]:
    """Return the condition for memories of a chat."""
    return MemoryRow.chat_id == chat_id


def content_hash(question: str, answer: str) -> str:
    """Return the SHA-256 of a question and its answer."""
    return hashlib.sha256(f"{len(question)}:{question}{answer}".encode()).hexdigest()


def _own(row: TurnRow, opinion: Opinion, score: float, conversation_id: int) -> Memory | None:
    """Return the answer to a question of the same chat: a standing correction, or a liked reply."""
    correction = next(iter(opinion.standing()), None)
    is_history = row.conversation_id == conversation_id
    if correction is None and (opinion.lead <= 0 or is_history):
        return None
    return Memory(
        turn_id=row.id,
        correction_id=correction.id if correction else None,
        question=row.question,
        answer=correction.text if correction else row.completion,
        score=score,
    )


def _copied(row: ApprovalRow | None, opinion: Opinion, score: float) -> Memory | None:
    """Return the approved copy, as long as people like the answer or a correction stands."""
    if row is None or not (opinion.standing() or opinion.lead > 0):
        return None
    return Memory(
        turn_id=row.turn_id,
        correction_id=row.correction_id,
        question=row.question,
        answer=row.answer,
        score=score,
        from_here=False,
    )


def _proposal(row: TurnRow, opinion: Opinion) -> Proposal | None:
    from store.masking import mask  # its libraries take a moment to import

    correction = next(iter(opinion.standing()), None)
    if correction is None and opinion.lead <= 0:
        return None
    question = mask(row.question)
    answer = mask(correction.text if correction else row.completion)
    return Proposal(
        turn_id=row.id,
        correction_id=correction.id if correction else None,
        question=question,
        answer=answer,
        sha256=content_hash(question, answer),
    )


def _is_decided() -> ColumnElement[bool]:
    """Return the condition that an admin has decided since a turn's newest correction."""
    later = exists().where(
        CorrectionRow.turn_id == ApprovalRow.turn_id,
        CorrectionRow.text != "",
        CorrectionRow.created_at >= ApprovalRow.created_at,
        CorrectionRow.id > func.coalesce(ApprovalRow.correction_id, 0),
    )
    return exists().where(ApprovalRow.turn_id == TurnRow.id, ~later)


def _approved_copies(
    session: Session, turn_ids: Sequence[int], rule: TeachingRule
) -> dict[int, ApprovalRow]:
    may_use_correction = exists().where(
        CorrectionRow.id == ApprovalRow.correction_id, rule.corrections
    )
    rows = session.scalars(
        select(ApprovalRow)
        .where(
            ApprovalRow.turn_id.in_(turn_ids),
            ApprovalRow.approved.is_(True),
            or_(ApprovalRow.correction_id.is_(None), may_use_correction),
        )
        .order_by(ApprovalRow.id)
    )
    return {row.turn_id: row for row in rows}


def _turns(session: Session, ids: Sequence[int]) -> Sequence[TurnRow]:
    newest_first = select(TurnRow).where(TurnRow.id.in_(ids)).order_by(TurnRow.id.desc())
    return session.scalars(newest_first.options(_WORDS)).all()


def _bytes(vector: Vector) -> bytes:
    return np.asarray(vector, dtype=np.float32).tobytes()
