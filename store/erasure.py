"""Erasing: what a person, a document or time takes out of the store, and out of others' prompts.

Every copy of words has a foreign key to its source, so that erasing is a join. It goes in steps:
the first one, a short transaction, makes sure that nothing is used any more; the others delete a
few rows each, so that nobody waits long for the database. A process that dies in between leaves a
row in `erasures`, and `resume` goes on.
"""

import time
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, Select, delete, or_, select, update
from sqlalchemy.orm import Session

from store.database import Database, Lock
from store.domain import Access, Erasure, Split
from store.memories import of_person, reconsider, remember
from store.parts import blank_sources
from store.tables import (
    AdapterRow,
    ChunkRow,
    ConversationRow,
    CorrectionRow,
    DocumentRow,
    ErasureRow,
    FeedbackRow,
    PersonRow,
    QuarantineRow,
    RunExampleRow,
    RunRow,
    RunSampleRow,
    SampleMessageRow,
    SpentRow,
    TurnPartRow,
    TurnRow,
    UpdateRow,
)

FIRST_STEP_TURNS = 4
MOST_STEP_TURNS = 64
"""Turns of one transaction: few at first, then as many as keep to `STEP_SECONDS`."""

STEP_SECONDS = 0.03
"""How long one transaction is to hold the write lock; others wait for no longer than a few."""

PAUSE_SECONDS = 0.01
"""Between two transactions: SQLite's writers ask again after a moment, and would starve."""

QUOTA_WINDOW = timedelta(days=1)
"""The longest time that a quota counts."""


class Eraser:
    """Erases from one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def erase_person(self, person_id: int) -> Erasure:
        """Delete a person's turns, ratings and corrections, and what others said of those turns.

        An admin's decision about them stays, without their name, so that erasing is no way around
        a denial; so does a quarantine, and the wish not to be trained on. Their use of quotas stays
        for a day, as numbers. Versions that were trained on them are marked.
        """
        with self._database.session() as session:
            if session.get(PersonRow, person_id) is not None:
                session.merge(ErasureRow(person_id=person_id, requested_at=self._database.now()))
                session.flush()
                reconsider(session, of_person(person_id))
                self._keep_usage(session, person_id)
        adapters: dict[int, str] = {}
        turns = self._in_steps(
            lambda size: self._erase_turns(self._turns_of(person_id, size), adapters)
        )
        self._in_steps(lambda size: self._erase_corrections(person_id, size, adapters))
        self._in_steps(lambda size: self._erase_ratings(person_id, size, adapters))
        with self._database.session() as session:
            session.execute(delete(UpdateRow).where(UpdateRow.person_id == person_id))
            session.execute(delete(ErasureRow).where(ErasureRow.person_id == person_id))
            _forget_person(session, person_id)
        self._database.scrub()
        return Erasure(turns=turns, adapters=tuple(adapters[each] for each in sorted(adapters)))

    def resume(self) -> int:
        """Finish erasures that a crash cut short; how many."""
        with self._database.reading() as session:
            begun = session.scalars(select(ErasureRow.person_id)).all()
        for person_id in begun:
            self.erase_person(person_id)
        return len(begun)

    def expire(self, age: timedelta) -> int:
        """Delete the turns that are older than `age`, with all that was said of them; how many.

        A question goes with every answer to it; newer turns that quote it keep their own words.
        People stay known, with an admin's decision about them, and versions stay what they are: the
        next run starts without.
        """
        before = self._database.now() - age
        old = select(TurnRow.id).where(TurnRow.created_at < before).order_by(TurnRow.id)
        erased = self._in_steps(lambda size: self._erase_turns(self._roots(old.limit(size)), None))
        with self._database.session() as session:
            day_ago = self._database.now() - QUOTA_WINDOW
            session.execute(delete(SpentRow).where(SpentRow.created_at < day_ago))
        return erased

    def erase_document(self, document_id: int) -> tuple[str, ...]:
        """Delete a document and take its passages out of prompts; the versions that learned them.

        Replies that were written from it are neither recalled nor trained on after that.
        """
        adapters: dict[int, str] = {}
        self._in_steps(lambda size: self._erase_passages(document_id, size, adapters))
        with self._database.session() as session:
            self._mark_quoting(session, document_id, None, adapters)
            session.execute(delete(DocumentRow).where(DocumentRow.id == document_id))
        return tuple(adapters[each] for each in sorted(adapters))

    def _in_steps(self, step: Callable[[int], int]) -> int:
        """Repeat a step, larger or smaller as time allows, until it finds nothing; the sum."""
        size, total = FIRST_STEP_TURNS, 0
        while True:
            begun = time.monotonic()
            done = step(size)
            if not done:
                return total
            total += done
            slow = time.monotonic() - begun > STEP_SECONDS
            size = max(1, size // 2) if slow else min(MOST_STEP_TURNS, size * 2)
            time.sleep(PAUSE_SECONDS)

    def _turns_of(self, person_id: int, size: int) -> list[int]:
        own = select(TurnRow.id).where(TurnRow.person_id == person_id).limit(size)
        return self._roots(own)

    def _roots(self, wanted: Select[int]) -> list[int]:
        """The turns of a query, and those in which somebody had them answered again."""
        with self._database.reading() as session:
            ids = list(session.scalars(wanted))
            again = select(TurnRow.id).where(TurnRow.regenerates_id.in_(ids))
            return sorted({*ids, *session.scalars(again)}) if ids else []

    def _erase_turns(self, ids: Sequence[int], adapters: dict[int, str] | None) -> int:
        if not ids:
            return 0
        with self._database.session() as session:
            self._database.lock(session, Lock.ERASING)
            corrections = list(
                session.scalars(select(CorrectionRow.id).where(CorrectionRow.turn_id.in_(ids)))
            )
            sources = or_(
                TurnPartRow.source_turn_id.in_(ids), TurnPartRow.correction_id.in_(corrections)
            )
            quoting = blank_sources(session, sources & TurnPartRow.turn_id.not_in(ids))
            examples = _examples_of([*ids, *quoting], corrections)
            if adapters is None:
                _drop_samples(session, examples)
            else:
                adapters |= self._mark(session, examples)
            conversations = set(
                session.scalars(select(TurnRow.conversation_id).where(TurnRow.id.in_(ids)))
            )
            session.execute(delete(TurnRow).where(TurnRow.id.in_(ids)))
            session.flush()
            _drop_empty(session, conversations)
        return len(ids)

    def _erase_corrections(self, person_id: int, size: int, adapters: dict[int, str]) -> int:
        with self._database.session() as session:
            self._database.lock(session, Lock.ERASING)
            rows = session.execute(
                select(CorrectionRow.id, CorrectionRow.turn_id)
                .where(CorrectionRow.person_id == person_id)
                .limit(size)
            ).all()
            ids = [row[0] for row in rows]
            if ids:
                quoting = blank_sources(
                    session, TurnPartRow.correction_id.in_(ids), whole=lambda row: False
                )
                adapters |= self._mark(session, _examples_of(quoting, ids))
                session.execute(delete(CorrectionRow).where(CorrectionRow.id.in_(ids)))
                session.flush()
                remember(session, {row[1] for row in rows})
            return len(ids)

    def _erase_ratings(self, person_id: int, size: int, adapters: dict[int, str]) -> int:
        with self._database.session() as session:
            self._database.lock(session, Lock.ERASING)
            rows = session.execute(
                select(FeedbackRow.id, FeedbackRow.turn_id)
                .where(FeedbackRow.person_id == person_id)
                .limit(size)
            ).all()
            if rows:
                turns = {row[1] for row in rows}
                adapters |= self._mark(session, _examples_of(turns, []))
                session.execute(
                    delete(FeedbackRow).where(FeedbackRow.id.in_([row[0] for row in rows]))
                )
                session.flush()
                remember(session, turns)
            return len(rows)

    def _erase_passages(self, document_id: int, size: int, adapters: dict[int, str]) -> int:
        with self._database.session() as session:
            self._database.lock(session, Lock.ERASING)
            return self._mark_quoting(session, document_id, size, adapters)

    def _mark_quoting(
        self, session: Session, document_id: int, size: int | None, adapters: dict[int, str]
    ) -> int:
        chunks = select(ChunkRow.id).where(ChunkRow.document_id == document_id)
        quoting = blank_sources(session, TurnPartRow.chunk_id.in_(chunks), limit=size)
        if quoting:
            adapters |= self._mark(session, _examples_of(quoting, []))
            reconsider(session, TurnRow.id.in_(quoting))
        return len(quoting)

    def _mark(self, session: Session, examples: ColumnElement[bool]) -> dict[int, str]:
        """Mark runs and versions that learned from examples; the versions, by id.

        A run under way passes the mark on to what it makes. The samples of runs that measured on
        them are dropped, too.
        """
        _drop_samples(session, examples)
        learned = select(RunExampleRow.run_id).where(examples, RunExampleRow.split == Split.TRAIN)
        runs = set(session.scalars(learned))
        if not runs:
            return {}
        now = self._database.now()
        for table, key in ((RunRow, RunRow.id), (AdapterRow, AdapterRow.run_id)):
            session.execute(
                update(table).where(key.in_(runs), table.erased_at.is_(None)).values(erased_at=now)
            )
        made = select(AdapterRow.id, AdapterRow.name).where(AdapterRow.run_id.in_(runs))
        return dict(session.execute(made).all())

    def _keep_usage(self, session: Session, person_id: int) -> None:
        """Keep what they asked for lately, as numbers: erasing must not renew quotas."""
        since = self._database.now() - QUOTA_WINDOW
        asked = session.execute(
            select(TurnRow.created_at, TurnRow.prompt_tokens + TurnRow.completion_tokens).where(
                TurnRow.person_id == person_id, TurnRow.created_at > since
            )
        )
        session.add_all(
            SpentRow(person_id=person_id, turns=1, tokens=tokens, ratings=0, created_at=moment)
            for moment, tokens in asked.all()
        )
        for table in (FeedbackRow, CorrectionRow):
            given = session.scalars(
                select(table.created_at).where(
                    table.person_id == person_id, table.created_at > since
                )
            )
            session.add_all(
                SpentRow(person_id=person_id, turns=0, tokens=0, ratings=1, created_at=moment)
                for moment in given.all()
            )


def _examples_of(turn_ids: Collection[int], corrections: Collection[int]) -> ColumnElement[bool]:
    """The condition for rows of `run_examples` that were made of turns or corrections."""
    return or_(
        RunExampleRow.turn_id.in_(turn_ids),
        RunExampleRow.other_turn_id.in_(turn_ids),
        RunExampleRow.correction_id.in_(corrections),
    )


def _drop_samples(session: Session, examples: ColumnElement[bool]) -> None:
    """Drop the samples of runs that measured on examples, and have admins' messages deleted."""
    measured = select(RunExampleRow.run_id).where(examples, RunExampleRow.split == Split.HELD_OUT)
    runs = set(session.scalars(measured))
    if runs:
        session.execute(delete(RunSampleRow).where(RunSampleRow.run_id.in_(runs)))
        session.execute(
            update(SampleMessageRow).where(SampleMessageRow.run_id.in_(runs)).values(unwanted=True)
        )


def _forget_person(session: Session, person_id: int) -> None:
    person = session.get(PersonRow, person_id)
    if person is None:
        return
    held = session.get(QuarantineRow, person_id)
    is_held = held is not None and held.released_at is None
    if person.access == Access.UNDECIDED and not person.opted_out and not is_held:
        session.delete(person)
    else:
        person.name = ""


def _drop_empty(session: Session, conversation_ids: set[int]) -> None:
    kept = select(TurnRow.conversation_id).where(TurnRow.conversation_id.in_(conversation_ids))
    session.execute(
        delete(ConversationRow).where(
            ConversationRow.id.in_(conversation_ids), ConversationRow.id.not_in(kept)
        )
    )
