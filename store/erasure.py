"""Erasing: takes the words of a person, a document or old turns out of rows and prompts.

Every copy of words has a foreign key to its source, so that erasing is a join. It goes in steps:
the first one, a short transaction, makes sure that nothing is used any more; the others delete a
few rows each, so that nobody waits long for the database. A process that dies in between leaves a
row in `erasures`, and `resume` goes on.
"""

import time
from collections.abc import Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from sqlalchemy import delete, exists, select, update
from sqlalchemy.orm import Session

from store.database import Database, Lock, in_parts
from store.domain import Access, Erasure, Split
from store.memories import drop_vectors, of_person, reconsider, remember
from store.parts import blank_parts, cut_parts, quoting_turns
from store.tables import (
    AdapterRow,
    ChunkRow,
    ConversationRow,
    CorrectionRow,
    DocumentRow,
    ErasureRow,
    FeedbackRow,
    MemoryRow,
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
from store.tombstones import Tombstones

ROWS_AT_ONCE = 4
"""Rows that are handled together: between them a transaction may end."""

STEP_SECONDS = 0.02
"""Time after which a transaction that holds the write lock ends."""

PAUSE_SECONDS = 0.03
"""Time between two transactions. SQLite's writers ask again only after a moment, and would starve
(docs/experiments.md, 2026-11-30)."""

EXPIRED_AT_ONCE = 2_000
"""The number of expired turns that are looked up together."""

QUOTA_WINDOW = timedelta(days=1)
"""The longest time that a quota counts."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Sources:
    """Rows that are to go, and turns of others that were served with their words."""

    turns: AbstractSet[int]
    corrections: AbstractSet[int]
    quoting: AbstractSet[int]
    expired_before: datetime | None = None
    """The moment before which turns expire; None if the rows go because somebody wished it."""

    def holds(self, part: TurnPartRow) -> bool:
        """Return whether a part of a prompt has words of these rows."""
        return self.asked(part) or part.correction_id in self.corrections

    def asked(self, part: TurnPartRow) -> bool:
        """Return whether a part has the question, too, and not only a correction."""
        return part.source_turn_id in self.turns


class Eraser:
    """Erases from one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def erase_person(self, person_id: int) -> Erasure:
        """Delete a person's turns, ratings and corrections, and others' opinions on those turns.

        An admin's decision about them stays, without their name, so that erasing is no way around
        a denial; so do a quarantine, the wish not to be trained on, and a question for consent that
        was not answered. Their use of quotas stays for a day, as numbers. Versions that were
        trained on them are marked.
        """
        self._begin(person_id)
        tombstones = Tombstones(self._database)
        adapters: dict[int, str] = {}
        turns = 0
        while sources := self._sources_of(person_id):  # they may go on talking meanwhile
            adapters |= self._mark((*sources.turns, *sources.quoting), sources.corrections)
            self._erase_sources(sources)
            turns += len(sources.turns)
        adapters |= self._erase_ratings(person_id)
        with self._database.session() as session:
            session.execute(delete(UpdateRow).where(UpdateRow.person_id == person_id))
            session.execute(delete(ErasureRow).where(ErasureRow.person_id == person_id))
            tombstones.set(session, person_id)
            _forget_person(session, person_id)
        self._database.scrub()
        return Erasure(turns=turns, adapters=tuple(adapters[each] for each in sorted(adapters)))

    def resume(self) -> int:
        """Finish erasures that a crash cut short; return their number."""
        with self._database.reading() as session:
            begun = session.scalars(select(ErasureRow.person_id)).all()
        for person_id in begun:
            self.erase_person(person_id)
        return len(begun)

    def expire(self, age: timedelta) -> int:
        """Delete turns older than `age` with all opinions on them; return the number of turns.

        A question goes with every answer to it. It is cut out of the prompts of newer turns, which
        stay in their conversations and teach as before. People and admins' decisions about them
        stay, and versions stay as they are: the next run trains without these turns.
        """
        before = self._database.now() - age
        expired = 0
        while sources := self._sources_before(before):
            self._drop_samples((*sources.turns, *sources.quoting), sources.corrections)
            self._erase_sources(sources)
            expired += len(sources.turns)
        return expired

    def drop_old_usage(self) -> None:
        """Delete the numbers kept of erased people's use once no quota counts them any more."""
        with self._database.session() as session:
            day_ago = self._database.now() - QUOTA_WINDOW
            session.execute(delete(SpentRow).where(SpentRow.created_at < day_ago))

    def erase_document(self, document_id: int) -> tuple[str, ...]:
        """Delete a document and its passages in prompts; return the versions that learned from it.

        Replies that were written from it are neither recalled nor trained on after that. They are
        taken out of other prompts, and so are replies to these, and so on.
        """
        chunks = select(ChunkRow.id).where(ChunkRow.document_id == document_id)
        quoting = (
            select(TurnPartRow.turn_id)
            .where(TurnPartRow.chunk_id.in_(chunks), TurnPartRow.erased.is_(False))
            .distinct()
        )
        adapters: dict[int, str] = {}
        while True:
            with self._database.reading() as session:
                ids = set(session.scalars(chunks))
                turns = session.scalars(quoting).all()
                echoes = _echoes(session, turns)
            adapters |= self._mark((*turns, *echoes), ())
            replies = partial(_blank_replies, of_turns={*turns, *echoes})
            self._in_steps(sorted(echoes), replies)
            self._in_steps(turns, partial(_blank_passages, chunk_ids=ids))
            with self._database.session() as session:
                of_it = ChunkRow.document_id == document_id
                session.execute(select(ChunkRow.id).where(of_it).with_for_update())
                if not session.scalars(quoting.limit(1)).all():  # nor since the look above
                    session.execute(delete(DocumentRow).where(DocumentRow.id == document_id))
                    break
        self._database.scrub()
        return tuple(adapters[each] for each in sorted(adapters))

    def _begin(self, person_id: int) -> None:
        """Make sure that nothing of a person is used any more, in one short transaction."""
        with self._database.session() as session:
            known = session.get(PersonRow, person_id) is not None
            if known and session.get(ErasureRow, person_id) is None:
                session.add(ErasureRow(person_id=person_id, requested_at=self._database.now()))
                session.flush()
                reconsider(session, of_person(person_id))
                self._keep_usage(session, person_id)

    def _sources_of(self, person_id: int) -> _Sources | None:
        """Return the rows of a person that are left; None if there are none."""
        with self._database.reading() as session:
            own = session.scalars(select(TurnRow.id).where(TurnRow.person_id == person_id)).all()
            turns = _with_regenerations(session, own)
            given = select(CorrectionRow.id).where(CorrectionRow.person_id == person_id)
            corrections = {*session.scalars(given), *_corrections_of(session, turns)}
            if not turns and not corrections:
                return None
            quoting = quoting_turns(session, turns, corrections) - turns
        return _Sources(turns=turns, corrections=corrections, quoting=quoting)

    def _sources_before(self, moment: datetime) -> _Sources | None:
        """Return some turns that are older than a moment; None if there are none."""
        old = select(TurnRow.id).where(TurnRow.created_at < moment).order_by(TurnRow.created_at)
        with self._database.reading() as session:
            turns = _with_regenerations(session, session.scalars(old.limit(EXPIRED_AT_ONCE)).all())
            if not turns:
                return None
            corrections = _corrections_of(session, turns)
            quoting = quoting_turns(session, turns, corrections, since=moment) - turns
        return _Sources(
            turns=turns, corrections=corrections, quoting=quoting, expired_before=moment
        )

    def _erase_sources(self, sources: _Sources) -> None:
        """Take the words out of others' prompts, then delete the rows."""
        self._in_steps(sorted(sources.quoting), partial(_take_out, sources=sources))
        # Newest first: a question goes after the answers to it that others asked for, so that an
        # erasure cut short by a crash still finds them.
        newest_first = sorted(sources.turns, reverse=True)
        self._in_steps(newest_first, partial(_delete_turns, sources=sources))
        of_others = partial(_delete_corrections, sources=sources)
        self._in_steps(sorted(sources.corrections), of_others)

    def _erase_ratings(self, person_id: int) -> dict[int, str]:
        """Delete a person's ratings of others' turns; return versions that learned from them."""
        with self._database.reading() as session:
            rows = session.execute(
                select(FeedbackRow.id, FeedbackRow.turn_id).where(
                    FeedbackRow.person_id == person_id
                )
            ).all()
        adapters = self._mark([row[1] for row in rows], ())
        self._in_steps([(row[0], row[1]) for row in rows], _delete_ratings)
        return adapters

    def _in_steps(self, rows: Sequence[T], step: Callable[[Session, Sequence[T]], object]) -> None:
        """Call `step` with rows, a few in each transaction, to hold the lock only briefly."""
        done = 0
        while done < len(rows):
            with self._database.session() as session:
                self._database.lock(session, Lock.ERASING)
                ends = time.monotonic() + STEP_SECONDS
                while True:
                    step(session, rows[done : done + ROWS_AT_ONCE])
                    done += ROWS_AT_ONCE
                    if done >= len(rows) or time.monotonic() >= ends:
                        break
            time.sleep(PAUSE_SECONDS)

    def _mark(self, turns: Collection[int], corrections: Collection[int]) -> dict[int, str]:
        """Mark runs and versions that learned from rows; return the versions' names by id.

        A run under way passes the mark on to what it makes. The samples of runs that measured on
        them are dropped, too.
        """
        self._drop_samples(turns, corrections)
        with self._database.reading() as session:
            runs = _runs_with(session, Split.TRAIN, turns, corrections)
        if not runs:
            return {}
        now = self._database.now()
        made = select(AdapterRow.id, AdapterRow.name).where(AdapterRow.run_id.in_(runs))
        with self._database.session() as session:
            for table, key in ((RunRow, RunRow.id), (AdapterRow, AdapterRow.run_id)):
                unmarked = key.in_(runs) & table.erased_at.is_(None)
                session.execute(update(table).where(unmarked).values(erased_at=now))
            return dict(session.execute(made).all())

    def _drop_samples(self, turns: Collection[int], corrections: Collection[int]) -> None:
        """Drop the samples of runs that measured on rows; mark admins' messages for deletion."""
        with self._database.reading() as session:
            runs = _runs_with(session, Split.HELD_OUT, turns, corrections)
        if runs:
            shown = SampleMessageRow.run_id.in_(runs)
            with self._database.session() as session:
                session.execute(delete(RunSampleRow).where(RunSampleRow.run_id.in_(runs)))
                session.execute(update(SampleMessageRow).where(shown).values(unwanted=True))

    def _keep_usage(self, session: Session, person_id: int) -> None:
        """Keep a person's recent use as numbers: erasing must not renew quotas."""
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


def _runs_with(
    session: Session, split: Split, turns: Collection[int], corrections: Collection[int]
) -> set[int]:
    """Return the runs with an example in a split that was made of turns or corrections."""
    runs: set[int] = set()
    for part in in_parts(turns):
        for column in (RunExampleRow.turn_id, RunExampleRow.other_turn_id):
            made = select(RunExampleRow.run_id).where(
                column.in_(part), RunExampleRow.split == split
            )
            runs.update(session.scalars(made))
    for part in in_parts(corrections):
        of_them = RunExampleRow.correction_id.in_(part)
        made = select(RunExampleRow.run_id).where(of_them, RunExampleRow.split == split)
        runs.update(session.scalars(made))
    return runs


def _with_regenerations(session: Session, ids: Collection[int]) -> set[int]:
    """Return turns together with those that answer their questions again."""
    found = set(ids)
    for part in in_parts(ids):
        found.update(session.scalars(select(TurnRow.id).where(TurnRow.regenerates_id.in_(part))))
    return found


def _corrections_of(session: Session, turns: Collection[int]) -> set[int]:
    found: set[int] = set()
    for part in in_parts(turns):
        found.update(
            session.scalars(select(CorrectionRow.id).where(CorrectionRow.turn_id.in_(part)))
        )
    return found


def _take_out(session: Session, turns: Sequence[int], *, sources: _Sources) -> None:
    """Take the words of sources out of the prompts of turns.

    What expired is cut out; where somebody's wish is the reason, a mark stays, so that replies
    that may repeat the words are known.
    """
    if sources.expired_before is None:
        blank_parts(session, turns, sources.holds, whole=sources.asked)
    else:
        cut_parts(session, turns, sources.holds)


def _echoes(session: Session, turns: Collection[int]) -> set[int]:
    """Return the turns that were served with the replies to turns, or with replies to those."""
    found: set[int] = set()
    newest = set(turns)
    while newest:
        newest = quoting_turns(session, newest, ()) - found - set(turns)
        found |= newest
    return found


def _blank_replies(session: Session, turns: Sequence[int], *, of_turns: AbstractSet[int]) -> None:
    blank_parts(
        session, turns, lambda part: part.source_turn_id in of_turns, whole=lambda part: False
    )
    drop_vectors(session, MemoryRow.turn_id.in_(turns))


def _blank_passages(session: Session, turns: Sequence[int], *, chunk_ids: set[int]) -> None:
    blank_parts(session, turns, lambda part: part.chunk_id in chunk_ids)
    drop_vectors(session, MemoryRow.turn_id.in_(turns))


def _take_out_late(
    session: Session, turns: Collection[int], corrections: Collection[int], sources: _Sources
) -> None:
    """Take words out of prompts that were written while the erasure went on."""
    quoting = quoting_turns(session, turns, corrections, since=sources.expired_before)
    if late := quoting - sources.turns - sources.quoting:
        _take_out(session, sorted(late), sources=sources)


def _delete_corrections(session: Session, ids: Sequence[int], *, sources: _Sources) -> None:
    of_them = CorrectionRow.id.in_(ids)
    session.execute(select(CorrectionRow.id).where(of_them).with_for_update())
    _take_out_late(session, (), ids, sources)
    turns = set(session.scalars(select(CorrectionRow.turn_id).where(of_them)))
    session.execute(delete(CorrectionRow).where(of_them))
    remember(session, turns)


def _delete_ratings(session: Session, rows: Sequence[tuple[int, int]]) -> None:
    session.execute(delete(FeedbackRow).where(FeedbackRow.id.in_([row[0] for row in rows])))
    remember(session, {row[1] for row in rows})


def _delete_turns(session: Session, ids: Sequence[int], *, sources: _Sources) -> None:
    of_them = TurnRow.id.in_(ids)
    session.execute(select(TurnRow.id).where(of_them).with_for_update())  # nobody quotes them now
    _take_out_late(session, ids, _corrections_of(session, ids), sources)
    conversations = set(session.scalars(select(TurnRow.conversation_id).where(of_them)))
    session.execute(delete(TurnRow).where(of_them))
    left = exists().where(TurnRow.conversation_id == ConversationRow.id)
    session.execute(delete(ConversationRow).where(ConversationRow.id.in_(conversations), ~left))


def _forget_person(session: Session, person_id: int) -> None:
    person = session.get(PersonRow, person_id)
    if person is None:
        return
    held = session.get(QuarantineRow, person_id)
    is_held = held is not None and held.released_at is None
    was_asked = person.asked_at is not None and person.consented_to is None
    is_plain = person.access == Access.UNDECIDED and not (person.opted_out or was_asked)
    if is_plain and not is_held:
        session.delete(person)
    else:
        person.name, person.username = "", None
