"""The parts of served prompts: rows that say where every word of a prompt came from.

Invariant: a part's words can be taken out of a prompt by the part alone, without a text search.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, exists, or_, select
from sqlalchemy.orm import Session, aliased

from store.database import in_parts
from store.domain import (
    HEADING_SEPARATOR,
    Memory,
    Message,
    PartKind,
    Passage,
    PromptPart,
)
from store.tables import (
    ChunkRow,
    ConversationRow,
    CorrectionRow,
    ErasureRow,
    TurnPartRow,
    TurnRow,
)

ERASED = "[erased]"
"""The mark in served prompts where words were erased."""

_PAIRS = (PartKind.EXAMPLE, PartKind.EXCHANGE)


def write_parts(session: Session, turn: TurnRow, parts: Iterable[PromptPart]) -> None:
    """Store the parts of a turn's prompt, in place of those from before.

    A source that is gone or being erased has its words taken out at once.
    """
    parts = tuple(parts)
    session.execute(delete(TurnPartRow).where(TurnPartRow.turn_id == turn.id))
    turn_ids = _living_turns(session, {part.turn_id for part in parts if part.turn_id})
    corrections = {part.correction_id for part in parts if part.correction_id}
    living = _living_corrections(session, corrections)
    chunks = _existing(session, ChunkRow, {part.chunk_id for part in parts if part.chunk_id})
    rows = [
        TurnPartRow(
            turn_id=turn.id,
            ordinal=ordinal,
            kind=part.kind,
            message=part.message,
            starts_at=part.starts_at,
            ends_at=part.ends_at,
            source_turn_id=part.turn_id if part.turn_id in turn_ids else None,
            correction_id=part.correction_id if part.correction_id in living else None,
            chunk_id=part.chunk_id if part.chunk_id in chunks else None,
            label=part.label,
            score=part.score,
            erased=part.erased,
        )
        for ordinal, part in enumerate(parts)
    ]
    session.add_all(rows)
    for row, part in zip(rows, parts, strict=True):
        lost_turn = part.turn_id is not None and row.source_turn_id is None
        lost_correction = part.correction_id is not None and row.correction_id is None
        lost_chunk = part.chunk_id is not None and row.chunk_id is None
        if lost_turn or lost_correction or lost_chunk:
            blank(turn, rows, row, whole=lost_turn)
    session.flush()


def read_parts(session: Session, turn_id: int) -> tuple[PromptPart, ...]:
    """Return the parts of a turn's prompt, in order."""
    rows = session.scalars(
        select(TurnPartRow).where(TurnPartRow.turn_id == turn_id).order_by(TurnPartRow.ordinal)
    )
    return tuple(
        PromptPart(
            kind=PartKind(row.kind),
            message=row.message,
            starts_at=row.starts_at,
            ends_at=row.ends_at,
            turn_id=row.source_turn_id,
            correction_id=row.correction_id,
            chunk_id=row.chunk_id,
            label=row.label,
            score=row.score,
            erased=row.erased,
        )
        for row in rows
    )


def passages_in(
    session: Session, messages: Sequence[Message], parts: Sequence[PromptPart]
) -> tuple[Passage, ...]:
    """Return the passages of a prompt, best first."""
    kept = [part for part in parts if part.kind is PartKind.PASSAGE]
    if not kept:
        return ()
    documents = dict(
        session.execute(
            select(ChunkRow.id, ChunkRow.document_id).where(
                ChunkRow.id.in_([part.chunk_id for part in kept if part.chunk_id])
            )
        ).all()
    )
    passages = []
    for part in kept:
        title, _, section = part.label.partition(HEADING_SEPARATOR)
        text = messages[part.message].content[part.starts_at : part.ends_at]
        passages.append(
            Passage(
                chunk_id=part.chunk_id,
                document_id=documents.get(part.chunk_id or 0),
                title=title,
                section=section,
                text=text.removeprefix(f"{part.label}: "),
                score=part.score or 0.0,
            )
        )
    return tuple(sorted(passages, key=lambda each: -each.score))


def memories_in(
    session: Session, messages: Sequence[Message], parts: Sequence[PromptPart], chat_id: int
) -> tuple[Memory, ...]:
    """Return the examples of a prompt, best first; those of old prompts without their words."""
    kept = [part for part in parts if part.kind is PartKind.EXAMPLE]
    if not kept:
        return ()
    chats = dict(
        session.execute(
            select(TurnRow.id, ConversationRow.chat_id)
            .join(ConversationRow, ConversationRow.id == TurnRow.conversation_id)
            .where(TurnRow.id.in_([part.turn_id for part in kept if part.turn_id]))
        ).all()
    )
    found = [
        Memory(
            turn_id=part.turn_id or 0,
            correction_id=part.correction_id,
            question=messages[part.message].content if part.starts_at is None else "",
            answer=messages[part.message + 1].content if part.starts_at is None else "",
            score=part.score or 0.0,
            from_here=chats.get(part.turn_id or 0) == chat_id,
        )
        for part in kept
    ]
    return tuple(sorted(found, key=lambda each: -each.score))


def is_being_erased() -> ColumnElement[bool]:
    """Return the condition that a turn's question belongs to a person who is being erased."""
    first = aliased(TurnRow)
    erasing = select(ErasureRow.person_id)
    asked_first = exists().where(first.id == TurnRow.regenerates_id, first.person_id.in_(erasing))
    return or_(TurnRow.person_id.in_(erasing), asked_first)


def was_erased_from() -> ColumnElement[bool]:
    """Return the condition that words of a turn or of its prompt were erased, or are about to be.

    A turn that teaches never meets it when it is read (see `TeachingRule`).
    """
    source, correction = aliased(TurnRow), aliased(CorrectionRow)
    erasing = select(ErasureRow.person_id)
    from_them = or_(
        exists().where(source.id == TurnPartRow.source_turn_id, source.person_id.in_(erasing)),
        exists().where(
            correction.id == TurnPartRow.correction_id, correction.person_id.in_(erasing)
        ),
    )
    lost_passage = and_(TurnPartRow.kind == PartKind.PASSAGE, TurnPartRow.chunk_id.is_(None))
    quotes = exists().where(
        TurnPartRow.turn_id == TurnRow.id,
        or_(TurnPartRow.erased.is_(True), lost_passage, from_them),
    )
    return or_(is_being_erased(), quotes)


def quoting_turns(
    session: Session,
    turns: Collection[int],
    corrections: Collection[int],
    *,
    since: datetime | None = None,
) -> set[int]:
    """Return the turns that were served with words of turns or corrections.

    With `since`, only those that were asked at that moment or later.
    """
    found: set[int] = set()
    for ids, column in (
        (turns, TurnPartRow.source_turn_id),
        (corrections, TurnPartRow.correction_id),
    ):
        for part in in_parts(ids):
            quoting = select(TurnPartRow.turn_id).where(column.in_(part)).distinct()
            if since is not None:
                quoting = quoting.join(TurnRow, TurnRow.id == TurnPartRow.turn_id)
                quoting = quoting.where(TurnRow.created_at >= since)
            found.update(session.scalars(quoting))
    return found


def blank_parts(
    session: Session,
    turn_ids: Collection[int],
    is_lost: Callable[[TurnPartRow], bool],
    *,
    whole: Callable[[TurnPartRow], bool] = lambda part: True,
) -> None:
    """Take the words of some parts out of the prompts of turns.

    `whole` says whether an exchange loses its question, too, and not only its reply.
    """
    for turn, rows in _with_rows(session, turn_ids):
        for row in rows:
            if is_lost(row) and (not row.erased or (_is_whole(row) and whole(row))):
                blank(turn, rows, row, whole=whole(row))
    session.flush()


def cut_parts(
    session: Session, turn_ids: Collection[int], is_lost: Callable[[TurnPartRow], bool]
) -> None:
    """Make the prompts of turns what they would have been without some parts.

    A part from which words were erased keeps its mark: the reply may repeat them.
    """
    for turn, rows in _with_rows(session, turn_ids):
        kept = list(rows)
        for row in rows:
            if is_lost(row) and row.erased:
                blank(turn, kept, row)
            elif is_lost(row):
                kept.remove(row)
                _cut(turn, kept, row)
                session.delete(row)
    session.flush()


def blank(
    turn: TurnRow, rows: Sequence[TurnPartRow], part: TurnPartRow, *, whole: bool = True
) -> None:
    """Put a mark in the place of a part's words, and move the parts behind it."""
    if part.starts_at is None or part.ends_at is None:
        assert part.kind in _PAIRS, "only exchanges and examples are whole messages"
        messages = [dict(message) for message in turn.messages]
        for index in (part.message, part.message + 1) if whole else (part.message + 1,):
            messages[index]["content"] = ERASED
        turn.messages = messages
    else:
        _replace(turn, rows, part, ERASED)
        part.ends_at = part.starts_at + len(ERASED)
    part.erased = True
    part.label = ""


def _cut(turn: TurnRow, rows: Sequence[TurnPartRow], part: TurnPartRow) -> None:
    """Take a part's words out of a prompt, and move the other parts in `rows`."""
    if part.starts_at is None:
        after = part.message + 2
        turn.messages = [*turn.messages[: part.message], *turn.messages[after:]]
        for row in rows:
            if row.message >= after:
                row.message -= 2
    else:
        _replace(turn, rows, part, "")


def _replace(turn: TurnRow, rows: Sequence[TurnPartRow], part: TurnPartRow, words: str) -> None:
    """Put words in the place of a part's, and move the parts behind it in the same message."""
    assert part.starts_at is not None
    assert part.ends_at is not None
    messages = [dict(message) for message in turn.messages]
    text = messages[part.message]["content"]
    messages[part.message]["content"] = text[: part.starts_at] + words + text[part.ends_at :]
    turn.messages = messages
    longer = len(words) - (part.ends_at - part.starts_at)
    for row in rows:
        if row is part or row.message != part.message or row.starts_at is None:
            continue
        if row.starts_at >= part.ends_at:
            assert row.ends_at is not None
            row.starts_at, row.ends_at = row.starts_at + longer, row.ends_at + longer


def _with_rows(
    session: Session, turn_ids: Collection[int]
) -> Iterator[tuple[TurnRow, list[TurnPartRow]]]:
    """Yield turns with the parts of their prompts in order."""
    of_them = select(TurnPartRow).where(TurnPartRow.turn_id.in_(turn_ids))
    by_turn: dict[int, list[TurnPartRow]] = {}
    for row in session.scalars(of_them.order_by(TurnPartRow.turn_id, TurnPartRow.ordinal)):
        by_turn.setdefault(row.turn_id, []).append(row)
    for turn in session.scalars(select(TurnRow).where(TurnRow.id.in_(turn_ids))):
        yield turn, by_turn.get(turn.id, [])


def _is_whole(part: TurnPartRow) -> bool:
    """Return whether a part is two messages, whose reply may have been erased alone."""
    return part.starts_at is None


def _living_turns(session: Session, ids: Collection[int]) -> set[int]:
    if not ids:
        return set()
    return set(session.scalars(select(TurnRow.id).where(TurnRow.id.in_(ids), ~is_being_erased())))


def _living_corrections(session: Session, ids: Collection[int]) -> set[int]:
    if not ids:
        return set()
    erasing = select(ErasureRow.person_id)
    return set(
        session.scalars(
            select(CorrectionRow.id).where(
                CorrectionRow.id.in_(ids), CorrectionRow.person_id.not_in(erasing)
            )
        )
    )


def _existing(session: Session, table: type[ChunkRow], ids: Collection[int]) -> set[int]:
    return set(session.scalars(select(table.id).where(table.id.in_(ids)))) if ids else set()
