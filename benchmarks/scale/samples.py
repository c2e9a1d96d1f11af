"""Choice of the people and turns of a filled store that are measured with."""

from datetime import datetime

from sqlalchemy import func, select

from benchmarks.scale.drawing import LARGE_GROUP
from benchmarks.scale.figures import CALLS
from store.database import Database
from store.tables import ConversationRow, FeedbackRow, TurnRow

ORDINARY_TURNS = (30, 80)
"""Shortest and longest ordinary conversation, in turns."""


def newest_turn(database: Database) -> datetime | None:
    """Return when the newest turn was asked; None for an empty store."""
    with database.reading() as session:
        newest = select(TurnRow.created_at).order_by(TurnRow.id.desc()).limit(1)
        return session.scalars(newest).first()


def people_in_private(database: Database) -> list[int]:
    """Return people whose private conversation is open and has an ordinary length."""
    newest = (
        select(func.max(ConversationRow.id))
        .where(ConversationRow.chat_id > 0)
        .group_by(ConversationRow.chat_id)
    )
    ordinary = (
        select(ConversationRow.chat_id)
        .join(TurnRow, TurnRow.conversation_id == ConversationRow.id)
        .where(ConversationRow.id.in_(newest))
        .group_by(ConversationRow.chat_id)
        .having(func.count().between(*ORDINARY_TURNS))
        .order_by(ConversationRow.chat_id)
        .limit(CALLS)
    )
    with database.reading() as session:
        return list(session.scalars(ordinary))


def people_in_the_group(database: Database) -> list[int]:
    """Return the people who spoke last in the large group."""
    with database.reading() as session:
        newest = session.scalars(
            select(TurnRow.person_id)
            .where(TurnRow.conversation_id == _large_conversation(database))
            .order_by(TurnRow.id.desc())
            .limit(CALLS * 10)
        ).all()
    return list(dict.fromkeys(newest))[:CALLS]


def unrated_turns(database: Database, count: int) -> list[tuple[int, int]]:
    """Return the ids of private turns that nobody rated, each with its person's id."""
    with database.reading() as session:
        newest = session.scalar(select(func.max(TurnRow.id))) or 0
        rows = session.execute(
            select(TurnRow.id, TurnRow.person_id)
            .join(ConversationRow, ConversationRow.id == TurnRow.conversation_id)
            .outerjoin(FeedbackRow, FeedbackRow.turn_id == TurnRow.id)
            .where(
                ConversationRow.chat_id > 0,
                TurnRow.id > newest // 2,
                TurnRow.completion != "",
                FeedbackRow.id.is_(None),
            )
            .order_by(TurnRow.id)
            .limit(count)
        )
        return [(turn_id, person_id) for turn_id, person_id in rows]


def people_with_turns(database: Database, turns: int, count: int) -> tuple[list[int], list[int]]:
    """Return people with about `turns` turns: some without any in the large group, some with."""
    members = (
        select(TurnRow.person_id)
        .where(TurnRow.conversation_id == _large_conversation(database))
        .distinct()
    )
    asked = select(TurnRow.person_id, func.count()).group_by(TurnRow.person_id)
    with database.reading() as session:
        in_the_group = set(session.scalars(members))
        counts = dict(session.execute(asked).all())
    closest = sorted(counts, key=lambda person: abs(counts[person] - turns))
    private = [person for person in closest if person not in in_the_group]
    grouped = [person for person in closest if person in in_the_group]
    return private[:count], grouped[:count]


def time_of_turn(database: Database, number: int) -> datetime:
    """Return the time at which a turn was asked, counted from the oldest."""
    with database.reading() as session:
        oldest = select(TurnRow.created_at).order_by(TurnRow.id).offset(number).limit(1)
        found = session.scalars(oldest).first()
    assert found is not None, "there are more turns"
    return found


def _large_conversation(database: Database) -> int:
    newest = select(func.max(ConversationRow.id)).where(ConversationRow.chat_id == LARGE_GROUP)
    with database.reading() as session:
        found = session.scalar(newest)
    assert found is not None, "there is a large group"
    return found
