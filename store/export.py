"""Exports of a person's data: zip files that people and programs can read.

They hold the person's own words and the replies to them, their ratings and corrections, and all
decisions about them. The words of documents, of other people and of the installation's system
prompt are left out; titles and kinds stand in their place. A test compares this file with the
tables.
"""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, or_, select
from sqlalchemy.orm import Session

from store.database import Database
from store.errors import ExportTooSoon
from store.tables import (
    ActivationRow,
    AdapterRow,
    ApprovalRow,
    AuditRow,
    Base,
    ConversationRow,
    CorrectionRow,
    DocumentRow,
    ErasureRow,
    FeedbackRow,
    GoldenRow,
    MemoryRow,
    PersonRow,
    QuarantineRow,
    RunExampleRow,
    RunRow,
    RunSampleRow,
    SentMessageRow,
    SpentRow,
    TurnPartRow,
    TurnRow,
    UpdateRow,
)

PART_BYTES = 45_000_000
"""The largest size of one file: a bot may upload 50 MB to Telegram."""

TURNS_AT_ONCE = 500

EVERY = timedelta(hours=1)
"""The time that a person must wait between two exports."""

SOMEBODY_ELSES = "(the question of somebody else)"

NOT_PERSONAL = frozenset(
    {
        *("chunks", "evaluations", "group_rules", "imports", "imported_examples", "invitations"),
        *("sample_messages", "split_key", "tombstones"),
    }
)
"""Tables that refer to no person."""

README = """\
This is everything that Ratchet holds about you, as of {moment}.

people.json            you: name, access, what you decided about learning
conversations/*.md     your conversations, to be read: your questions and the replies
turns.json             the same for programs, with what each reply was made of
ratings.json           every thumb you gave, also those you took back
corrections.json       every correction you wrote
about_your_turns.json  thumbs and corrections by others on replies to you, without their names
messages.json          the numbers of Telegram messages that show these replies
learning.json          the runs and versions that learned from these turns; approved and golden
                       answers
learning_from_opinions.json   those that learned from your thumbs and corrections
other.json             your commands as an admin, files you added, runs you asked for, and so on

Left out: the system prompt, the words of documents (their titles are there), and the words of
other people. The kinds of the parts of a prompt say where such words stood.
"""


class Exports:
    """Exports from one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, person_id: int) -> None:
        """Record that a person asks for an export. Raises `ExportTooSoon` within an hour."""
        with self._database.session() as session:
            row = session.get(PersonRow, person_id)
            now = self._database.now()
            if row is None:
                return
            if row.exported_at is not None and now - row.exported_at < EVERY:
                raise ExportTooSoon(EVERY - (now - row.exported_at))
            row.exported_at = now

    def take_back(self, person_id: int) -> None:
        """Record that an export did not arrive: the person may ask again at once."""
        with self._database.session() as session:
            row = session.get(PersonRow, person_id)
            if row is not None:
                row.exported_at = None

    def write(self, person_id: int, *, part_bytes: int = PART_BYTES) -> Iterator[bytes]:
        """Yield zip files with all data about a person, each of bounded size.

        Every file can be opened by itself; the first one has the README.
        """
        part = _Part(part_bytes)
        moment = self._database.now()
        part.add("README.txt", README.format(moment=f"{moment:%Y-%m-%d %H:%M} UTC"))
        for name, text in self._files(person_id):
            if part.is_full_with(text):
                yield part.close()
                part = _Part(part_bytes)
            part.add(name, text)
        yield part.close()

    def _files(self, person_id: int) -> Iterator[tuple[str, str]]:
        with self._database.reading() as session:
            yield "people.json", _json(_rows(session, PersonRow, PersonRow.id == person_id))
            ids = list(
                session.scalars(
                    select(TurnRow.id).where(TurnRow.person_id == person_id).order_by(TurnRow.id)
                )
            )
        for start in range(0, len(ids), TURNS_AT_ONCE):
            part = ids[start : start + TURNS_AT_ONCE]
            suffix = "" if len(ids) <= TURNS_AT_ONCE else f"_{start // TURNS_AT_ONCE + 1}"
            with self._database.reading() as session:
                turns = _turns(session, part)
                yield f"turns{suffix}.json", _json(turns)
                yield from _markdown(session, turns, suffix)
                yield f"about_your_turns{suffix}.json", _json(_by_others(session, part, person_id))
                yield f"messages{suffix}.json", _json(_messages(session, part))
                yield f"learning{suffix}.json", _json(_learning_from(session, part, person_id))
        with self._database.reading() as session:
            of_them = FeedbackRow.person_id == person_id
            yield "ratings.json", _json(_rows(session, FeedbackRow, of_them))
            of_them = CorrectionRow.person_id == person_id
            yield "corrections.json", _json(_rows(session, CorrectionRow, of_them))
            yield "learning_from_opinions.json", _json(_learning_from_opinions(session, person_id))
            yield "other.json", _json(_other(session, person_id))


class _Part:
    """A zip file that is being filled."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._buffer = io.BytesIO()
        self._zip = zipfile.ZipFile(self._buffer, "w", zipfile.ZIP_DEFLATED)
        self._is_empty = True

    def is_full_with(self, text: str) -> bool:
        """Return whether another file would make it too large if it could not be compressed."""
        return not self._is_empty and self._buffer.tell() + len(text.encode()) > self._most_bytes

    def add(self, name: str, text: str) -> None:
        self._zip.writestr(name, text)
        self._is_empty = False

    def close(self) -> bytes:
        self._zip.close()
        return self._buffer.getvalue()


def _turns(session: Session, ids: Sequence[int]) -> list[dict[str, Any]]:
    rows = session.scalars(select(TurnRow).where(TurnRow.id.in_(ids)).order_by(TurnRow.id))
    turns = []
    for row in rows.all():
        turn = _plain(row)
        del turn["messages"]
        turn["prompt"] = [_part_of_prompt(part) for part in _parts(session, row.id)]
        if not _has_own_question(session, row):
            turn["question"] = SOMEBODY_ELSES
        turns.append(turn)
    return turns


def _has_own_question(session: Session, turn: TurnRow) -> bool:
    """Return whether the person who asked for a reply wrote its question, too."""
    first = session.get(TurnRow, turn.regenerates_id) if turn.regenerates_id else turn
    return first is not None and first.person_id == turn.person_id


def _parts(session: Session, turn_id: int) -> Sequence[TurnPartRow]:
    query: Select[TurnPartRow] = select(TurnPartRow).where(TurnPartRow.turn_id == turn_id)
    return session.scalars(query.order_by(TurnPartRow.ordinal)).all()


def _part_of_prompt(part: TurnPartRow) -> dict[str, Any]:
    shown: dict[str, Any] = {"kind": part.kind}
    if part.label:
        shown["title"] = part.label
    if part.score is not None:
        shown["score"] = part.score
    if part.source_turn_id is not None:
        shown["turn"] = part.source_turn_id
    return shown


def _markdown(
    session: Session, turns: Sequence[Mapping[str, Any]], suffix: str
) -> Iterator[tuple[str, str]]:
    by_conversation: dict[int, list[Mapping[str, Any]]] = {}
    for turn in turns:
        by_conversation.setdefault(turn["conversation_id"], []).append(turn)
    for conversation_id, told in by_conversation.items():
        row = session.get_one(ConversationRow, conversation_id)
        lines = [f"# Conversation {conversation_id}, begun {row.started_at:%Y-%m-%d %H:%M} UTC", ""]
        for turn in told:
            lines += [f"**You** ({turn['created_at'][:16].replace('T', ' ')} UTC)", ""]
            lines += [turn["question"], "", "**Reply**", "", turn["completion"] or "(none)", ""]
        yield f"conversations/{conversation_id}{suffix}.md", "\n".join(lines)


def _by_others(session: Session, ids: Sequence[int], person_id: int) -> dict[str, Any]:
    about: dict[str, Any] = {}
    for name, table in (("ratings", FeedbackRow), ("corrections", CorrectionRow)):
        rows = _rows(session, table, table.turn_id.in_(ids) & (table.person_id != person_id))
        about[name] = [
            {key: value for key, value in row.items() if key not in ("person_id", "text")}
            for row in rows
        ]
    return about


def _messages(session: Session, ids: Sequence[int]) -> dict[str, Any]:
    turns = select(TurnRow.conversation_id).where(TurnRow.id.in_(ids))
    return {
        "conversations": _rows(session, ConversationRow, ConversationRow.id.in_(turns)),
        "messages": _rows(session, SentMessageRow, SentMessageRow.turn_id.in_(ids)),
    }


def _learning_from(session: Session, ids: Sequence[int], person_id: int) -> dict[str, Any]:
    """Return what was learned from turns, without the words of others that stand beside them."""
    of_them = or_(RunExampleRow.turn_id.in_(ids), RunExampleRow.other_turn_id.in_(ids))
    samples = _rows(session, RunSampleRow, RunSampleRow.turn_id.in_(ids))
    approved = select(ApprovalRow).where(ApprovalRow.turn_id.in_(ids))
    return {
        **_examples_and_versions(session, of_them),
        "samples": [
            {key: value for key, value in sample.items() if key != "question"}  # the whole prompt
            for sample in samples
        ],
        "approved_answers": [_approved(session, row) for row in session.scalars(approved)],
        "golden_answers": [
            _golden(session, row, person_id)
            for row in session.scalars(select(GoldenRow).where(GoldenRow.turn_id.in_(ids)))
        ],
        "recalled_answers": [
            {"turn": turn_id}
            for turn_id in session.scalars(
                select(MemoryRow.turn_id).where(MemoryRow.turn_id.in_(ids))
            )
        ],
    }


def _learning_from_opinions(session: Session, person_id: int) -> dict[str, Any]:
    """Return what was learned from a person's thumbs and corrections, on anybody's turns."""
    rated = select(FeedbackRow.turn_id).where(FeedbackRow.person_id == person_id)
    corrected = select(CorrectionRow.id).where(CorrectionRow.person_id == person_id)
    of_them = or_(RunExampleRow.turn_id.in_(rated), RunExampleRow.correction_id.in_(corrected))
    approved = select(ApprovalRow).where(ApprovalRow.correction_id.in_(corrected))
    return {
        **_examples_and_versions(session, of_them),
        "approved_corrections": [
            {"turn": row.turn_id, "answer": row.answer, "at": row.created_at.isoformat()}
            for row in session.scalars(approved)
        ],
        "golden_corrections": [
            {"turn": row.turn_id, "answer": row.answer, "at": row.created_at.isoformat()}
            for row in session.scalars(
                select(GoldenRow).where(GoldenRow.correction_id.in_(corrected))
            )
        ],
    }


def _examples_and_versions(session: Session, of_them: ColumnElement[bool]) -> dict[str, Any]:
    runs = select(RunExampleRow.run_id).where(of_them)
    versions = select(AdapterRow.name, AdapterRow.run_id).where(AdapterRow.run_id.in_(runs))
    return {
        "examples": _rows(session, RunExampleRow, of_them),
        "versions": [{"name": name, "run": run_id} for name, run_id in session.execute(versions)],
    }


def _approved(session: Session, row: ApprovalRow) -> dict[str, Any]:
    """Return a decision on an answer to a person's question; others' corrections are left out."""
    shown = {key: value for key, value in _plain(row).items() if key != "person_id"}
    turn = session.get_one(TurnRow, row.turn_id)
    if row.correction_id is not None:
        correction = session.get_one(CorrectionRow, row.correction_id)
        if correction.person_id != turn.person_id:
            shown["answer"] = "(the correction of somebody else)"
    if not _has_own_question(session, turn):
        shown["question"] = SOMEBODY_ELSES
    return shown


def _golden(session: Session, row: GoldenRow, person_id: int) -> dict[str, Any]:
    """Return a golden answer to a person's question; others' corrections are left out."""
    shown = _plain(row)
    if row.correction_id is not None:
        correction = session.get_one(CorrectionRow, row.correction_id)
        if correction.person_id != person_id:
            shown["answer"] = "(the correction of somebody else)"
    if not _has_own_question(session, session.get_one(TurnRow, row.turn_id)):
        shown["prompt"] = SOMEBODY_ELSES
    return shown


def _other(session: Session, person_id: int) -> dict[str, Any]:
    def of(table: type[Base], column: Any) -> list[dict[str, Any]]:
        return _rows(session, table, column == person_id)

    return {
        "quarantine": of(QuarantineRow, QuarantineRow.person_id),
        "messages_being_handled": [
            {"update": row["id"], "received_at": row["received_at"]}
            for row in of(UpdateRow, UpdateRow.person_id)
        ],
        "commands": of(AuditRow, AuditRow.person_id),
        "files": [
            {"name": row["name"], "title": row["title"], "added_at": row["created_at"]}
            for row in of(DocumentRow, DocumentRow.added_by)
        ],
        "runs": [
            {"run": row["id"], "status": row["status"], "asked_for_at": row["created_at"]}
            for row in of(RunRow, RunRow.requested_by)
        ],
        "versions_put_in_use": of(ActivationRow, ActivationRow.person_id),
        "answers_approved": [
            {"turn": row["turn_id"], "at": row["created_at"]}
            for row in of(ApprovalRow, ApprovalRow.person_id)
        ],
        "use_of_quotas": of(SpentRow, SpentRow.person_id),
        "erasures": of(ErasureRow, ErasureRow.person_id),
    }


def _rows(session: Session, table: type[Base], where: Any) -> list[dict[str, Any]]:
    return [_plain(row) for row in session.scalars(select(table).where(where))]


def _plain(row: Base) -> dict[str, Any]:
    values = {column.name: getattr(row, column.name) for column in row.__table__.columns}
    return {
        name: value.isoformat() if hasattr(value, "isoformat") else value
        for name, value in values.items()
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
