"""Who talks to the bot: names, access, consent to training, and what is held about them.

A person's rows are theirs: `export` gives all of them, `erase` takes all of them out. Other
people's turns in a group keep their own words; what an erased person wrote is blanked in the
prompts that those turns were served with.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

from sqlalchemy import Select, Text, cast, delete, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from store.adapters import HOLDS_ERASED
from store.database import Database
from store.domain import Access, Erasure, Person
from store.tables import (
    AdapterRow,
    ConversationRow,
    CorrectionRow,
    FeedbackRow,
    PersonRow,
    QuarantineRow,
    RunRow,
    TurnRow,
    UpdateRow,
)

CONSENT_VERSION = 1
"""Of the question whether somebody may be learned from; another wording gets another number."""

SOMEBODY_ELSE = "[somebody else's]"
"""Stands in an export where a group's other people are quoted."""

ERASED = "[erased]"
"""Stands in other people's served prompts where an erased person's words were."""

ERASING_KEY = -4
"""Words are taken out of others' prompts by one at a time, or they would come back."""

EXPIRED_AT_ONCE = 200
"""Turns that are deleted for their age in one transaction, or everybody would wait for it."""


class People:
    """The people of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def see(self, person_id: int, name: str) -> Person:
        """The person, remembered from now on if they are new; a changed name is kept."""
        known = self.find(person_id)
        if known is not None and known.name == name:
            return known
        try:
            with self._database.session() as session:
                return _person(self._upsert(session, person_id, name))
        except IntegrityError:  # somebody else remembered them in the same moment
            with self._database.session() as session:
                return _person(self._upsert(session, person_id, name))

    def find(self, person_id: int) -> Person | None:
        """The person, if they were ever seen."""
        with self._database.reading() as session:
            row = session.get(PersonRow, person_id)
            return _person(row) if row else None

    def decide(self, person_id: int, access: Access) -> Person:
        """Record an admin's decision, also about somebody who has not written yet."""
        with self._database.session() as session:
            row = self._upsert(session, person_id, None)
            row.access = access
            return _person(row)

    def newcomers(self, age: timedelta) -> frozenset[int]:
        """Those who were first seen less than `age` ago and whom no admin has let in."""
        since = self._database.now() - age
        with self._database.reading() as session:
            new = select(PersonRow.id).where(
                PersonRow.first_seen > since, PersonRow.access != Access.ALLOWED
            )
            return frozenset(session.scalars(new))

    def opt_out(self, person_id: int, opted_out: bool) -> Person:
        """Keep what they write and rate out of training, or let it in: they agree to it, then."""
        with self._database.session() as session:
            row = self._upsert(session, person_id, None)
            row.opted_out = opted_out
            row.consented_to = None if opted_out else CONSENT_VERSION
            row.decided_at = self._database.now()
            return _person(row)

    def export(self, person_id: int) -> dict[str, Any]:
        """Everything that is held about them, as plain JSON values."""
        with self._database.reading() as session:
            row = session.get(PersonRow, person_id)
            turns = _all(session, select(TurnRow).where(TurnRow.person_id == person_id))
            own = {(turn["question"], turn["completion"]) for turn in turns}
            ids = {turn["id"] for turn in turns}
            for turn in turns:  # a group's history, and examples, hold what others said
                turn["messages"] = _replaced(
                    turn["messages"], lambda pair: pair not in own, SOMEBODY_ELSE
                )
                turn["messages"], turn["memories"] = _without_memories(
                    turn["messages"], turn["memories"], lambda id: id not in ids, SOMEBODY_ELSE
                )
            return {
                "person": _plain(row) if row else None,
                "turns": turns,
                "feedback": _all(
                    session, select(FeedbackRow).where(FeedbackRow.person_id == person_id)
                ),
                "corrections": _all(
                    session, select(CorrectionRow).where(CorrectionRow.person_id == person_id)
                ),
                "held_back": _all(
                    session, select(QuarantineRow).where(QuarantineRow.person_id == person_id)
                ),
                "waiting": _all(session, select(UpdateRow).where(UpdateRow.person_id == person_id)),
            }

    def erase(self, person_id: int) -> Erasure:
        """Delete their turns, ratings and corrections, and what others said of those turns.

        What an admin decided about them stays, without their name, so that erasing is no way
        around a denial; so does that they are held back, and their wish not to be trained on.
        Versions that were trained on them are noted to be so, for the next run to replace.
        """
        with self._database.session() as session:
            self._database.take_turns(session, ERASING_KEY)
            turns = _turns_with_words_of(session, person_id)
            examples = _examples_of(session, _blanked(session, turns), person_id)
            adapters = _note_erasure(session, examples)
            _blank_samples(session, turns, examples)
            conversations = _delete(session, turns)
            for table in (FeedbackRow, CorrectionRow, UpdateRow):
                session.execute(delete(table).where(table.person_id == person_id))
            session.flush()
            self._forget_person(session, person_id)
            _drop_empty(session, conversations)
        self._database.scrub()
        return Erasure(turns=len(turns), adapters=adapters)

    def expire(self, age: timedelta) -> int:
        """Delete the turns that are older than `age`, with all that was said of them; how many.

        A question goes with every answer to it; newer turns that quote it keep their own words.
        People stay known, with what an admin decided about them, and versions stay what they are:
        the next run starts without.
        """
        before = self._database.now() - age
        old = select(TurnRow.id).where(TurnRow.created_at < before).order_by(TurnRow.id)
        expired = 0
        while True:
            with self._database.reading() as session:
                ids = set(session.scalars(old.limit(EXPIRED_AT_ONCE)))
            if not ids:
                return expired
            with self._database.session() as session:
                self._database.take_turns(session, ERASING_KEY)
                meant = or_(TurnRow.id.in_(ids), TurnRow.regenerates_id.in_(ids))
                turns = list(session.scalars(select(TurnRow).where(meant)))
                examples = _examples_of(session, _blanked(session, turns))
                _blank_samples(session, turns, examples)
                conversations = _delete(session, turns)
                session.flush()
                _drop_empty(session, conversations)
            expired += len(turns)

    def _upsert(self, session: Session, person_id: int, name: str | None) -> PersonRow:
        row = session.get(PersonRow, person_id)
        if row is None:
            row = PersonRow(
                id=person_id,
                name=name or "",
                access=Access.UNDECIDED,
                opted_out=False,
                first_seen=self._database.now(),
            )
            session.add(row)
        elif name is not None:
            row.name = name
        session.flush()
        return row

    @staticmethod
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


def _turns_with_words_of(session: Session, person_id: int) -> list[TurnRow]:
    """The person's turns, and those in which others had the person's questions answered again."""
    own = list(session.scalars(select(TurnRow).where(TurnRow.person_id == person_id)))
    ids = select(TurnRow.id).where(TurnRow.person_id == person_id)
    again = session.scalars(
        select(TurnRow).where(TurnRow.regenerates_id.in_(ids), TurnRow.person_id != person_id)
    )
    return [*own, *again]


def _blanked(session: Session, turns: list[TurnRow]) -> set[int]:
    """Take these exchanges out of what others quote; the ids of them all."""
    quoting = {*_blank(session, turns), *_blank_memories(session, turns)}
    return {turn.id for turn in turns} | quoting


def _delete(session: Session, turns: list[TurnRow]) -> set[int]:
    """Delete turns; the ids of their conversations."""
    for turn in turns:
        session.delete(turn)
    return {turn.conversation_id for turn in turns}


def _examples_of(session: Session, ids: set[int], person_id: int | None = None) -> set[str]:
    """The ids of examples that these turns or the person's ratings went into, as runs keep them."""
    rated = select(FeedbackRow.turn_id).where(FeedbackRow.person_id == person_id)
    corrections = session.scalars(
        select(CorrectionRow.id).where(
            or_(CorrectionRow.person_id == person_id, CorrectionRow.turn_id.in_(ids))
        )
    )
    return {
        *(f"t{id}" for id in {*ids, *session.scalars(rated)}),
        *(f"{kind}{id}" for id in corrections for kind in "cd"),
    }


def _note_erasure(session: Session, examples: set[str]) -> tuple[str, ...]:
    """Note on runs and versions that were trained on any of the examples that they were.

    A run under way passes the note on to what it makes. Returns the names of the versions.
    """
    runs = [
        run
        for run in session.scalars(select(RunRow))
        if any(_parts(id) & examples for id in run.snapshot.get("train", ()))
    ]
    for run in runs:
        run.metrics = {**run.metrics, HOLDS_ERASED: True}
    made = select(AdapterRow).where(AdapterRow.run_id.in_([run.id for run in runs]))
    adapters = list(session.scalars(made.order_by(AdapterRow.id)))
    for adapter in adapters:
        adapter.metrics = {**adapter.metrics, HOLDS_ERASED: True}
    return tuple(adapter.name for adapter in adapters)


def _parts(example: str) -> set[str]:
    """The id of an example; of a pair of answers, those of both."""
    if example.startswith("p"):
        return {f"t{turn}" for turn in example[1:].split("-")}
    return {example}


def _blank(session: Session, erased: list[TurnRow]) -> Iterator[int]:
    """Take erased exchanges out of the histories of other turns; the ids of these."""
    exchanges = {(turn.question, turn.completion) for turn in erased}
    conversations = {turn.conversation_id for turn in erased}
    for turn in session.scalars(select(TurnRow).where(TurnRow.conversation_id.in_(conversations))):
        messages = _replaced(turn.messages, lambda pair: pair in exchanges, ERASED)
        if messages != turn.messages:
            turn.messages = messages
            yield turn.id


def _blank_memories(session: Session, erased: list[TurnRow]) -> Iterator[int]:
    """Take erased exchanges out of the examples of other turns; the ids of these."""
    ids = {turn.id for turn in erased}
    helped = select(TurnRow.id, TurnRow.memories).where(cast(TurnRow.memories, Text) != "[]")
    for turn_id, memories in session.execute(helped).all():
        if any(memory["turn_id"] in ids for memory in memories):
            turn = session.get_one(TurnRow, turn_id)
            turn.messages, turn.memories = _without_memories(
                turn.messages, turn.memories, lambda id: id in ids, ERASED
            )
            yield turn.id


def _blank_samples(session: Session, erased: list[TurnRow], examples: set[str]) -> None:
    """Take erased questions, and the replies to them, out of what runs showed to admins.

    What is private in them is masked there, so a run that measured on an erased example loses all.
    """
    questions = {turn.question for turn in erased if turn.question}
    for run in session.scalars(select(RunRow)):
        samples = run.metrics.get("samples", [])
        measured = any(_parts(id) & examples for id in run.snapshot.get("held_out", ()))
        kept = [  # with passages, the question is a part of what was asked
            each
            for each in samples
            if not measured and not any(words in each["question"] for words in questions)
        ]
        if len(kept) < len(samples):
            run.metrics = {**run.metrics, "samples": kept}


def _without_memories(
    messages: list[dict[str, Any]],
    memories: list[dict[str, Any]],
    affected: Callable[[int], bool],
    text: str,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Messages and memories, with a text in place of every memory that is affected."""
    kept_messages = [dict(message) for message in messages]
    kept_memories = []
    for memory in memories:
        if not affected(memory["turn_id"]):
            kept_memories.append(memory)
            continue
        kept_memories.append({**memory, "question": text, "answer": text})
        for message in kept_messages:
            if message["role"] == "system":
                for words in (memory["answer"], memory["question"]):
                    message["content"] = message["content"].replace(words, text)
    return kept_messages, kept_memories


def _replaced(
    messages: list[dict[str, Any]], affected: Callable[[tuple[str, str]], bool], text: str
) -> list[dict[str, Any]]:
    """The messages, with a text in place of every question and reply that are affected."""
    kept = [dict(message) for message in messages]
    for asked, said in pairwise(kept):
        exchange = (asked["content"], said["content"])
        if (asked["role"], said["role"]) == ("user", "assistant") and affected(exchange):
            asked["content"] = said["content"] = text
    return kept


def _drop_empty(session: Session, conversation_ids: set[int]) -> None:
    kept = select(TurnRow.conversation_id).where(TurnRow.conversation_id.in_(conversation_ids))
    session.execute(
        delete(ConversationRow).where(
            ConversationRow.id.in_(conversation_ids), ConversationRow.id.not_in(kept)
        )
    )


def _all(session: Session, query: Select[Any]) -> list[dict[str, Any]]:
    return [_plain(row) for row in session.scalars(query)]


def _plain(row: Any) -> dict[str, Any]:
    values = {column.name: getattr(row, column.name) for column in row.__table__.columns}
    return {
        name: value.isoformat() if hasattr(value, "isoformat") else value
        for name, value in values.items()
    }


def _person(row: PersonRow) -> Person:
    return Person(
        id=row.id,
        name=row.name,
        access=Access(row.access),
        opted_out=row.opted_out,
        consented_to=row.consented_to,
        decided_at=row.decided_at,
        first_seen=row.first_seen,
    )
