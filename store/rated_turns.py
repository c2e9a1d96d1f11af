"""Choice of the rated turns that are read for a run, from however many there are.

The newest are read in the order of an index until there are enough; older ones are drawn by the ids
of their ratings. So the time does not grow with the number of turns.
"""

import heapq
import random
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.orm import Session

from store.database import in_parts
from store.tables import CorrectionRow, FeedbackRow
from store.teaching import TeachingRule

RATER_SHARE = 10
"""Divisor: one rater has at most a tenth of the turns that are read for a run, unless others rated
too few."""

MOST_PASSED = 20
"""Ratings that are passed in search of other raters', as a multiple of the turns wanted."""

DRAWN_PER_TURN = 3
"""Ratings drawn for each older turn wanted: some were replaced, or are those of newer turns."""

ROWS_AT_ONCE = 1_000


def rated_turns(
    session: Session, rule: TeachingRule, most: int | None, draw: random.Random
) -> list[int]:
    """Return the ids of turns that were rated or corrected by people who may teach, in order.

    With `most`, these are the newest so many, and up to as many older ones, drawn at random. In
    either half one person's ratings bring in at most a tenth, unless others rated too few.
    """
    counted = (
        (FeedbackRow, and_(FeedbackRow.replaced_at.is_(None), rule.ratings)),
        (CorrectionRow, rule.corrections),
    )
    if most is None:
        return sorted({turn for each in counted for turn, _ in _newest_first(session, *each)})
    with ExitStack() as cursors:
        given = [cursors.enter_context(closing(_newest_first(session, *each))) for each in counted]
        newest = _fair(heapq.merge(*given, reverse=True), most)
    before = min(newest, default=0)
    older = list(_drawn(session, counted, before, DRAWN_PER_TURN * most, draw))
    draw.shuffle(older)
    return sorted(newest | _fair(older, most))


def _fair(ratings: Iterable[tuple[int, int]], most: int) -> set[int]:
    """Return the first turns of ratings, given as turn and person, until there are so many.

    Those beyond somebody's share fill what is left, first those of people who have least beyond it.
    """
    turns: set[int] = set()
    beyond: list[tuple[int, int]] = []
    counts = Counter[int]()
    for turn_id, person_id in islice(ratings, MOST_PASSED * most):
        counts[person_id] += 1
        if counts[person_id] <= max(1, most // RATER_SHARE):
            turns.add(turn_id)
            if len(turns) >= most:
                return turns
        else:
            beyond.append((counts[person_id], turn_id))
    for _, turn_id in sorted(beyond, key=lambda each: each[0]):
        if len(turns) >= most:
            break
        turns.add(turn_id)
    return turns


def _newest_first(session: Session, table: Any, condition: Any) -> Generator[tuple[int, int]]:
    """Yield turn and person of ratings or corrections, newest turns first."""
    rows = session.execute(
        select(table.turn_id, table.person_id)
        .where(condition)
        .order_by(table.turn_id.desc(), table.person_id.desc()),
        execution_options={"yield_per": ROWS_AT_ONCE},
    )
    with closing(rows):
        yield from rows


def _drawn(
    session: Session,
    counted: Sequence[tuple[Any, ColumnElement[bool]]],
    before: int,
    count: int,
    draw: random.Random,
) -> Iterator[tuple[int, int]]:
    """Yield turn and person of ratings and corrections of turns before one, drawn by their ids."""
    ids = {table: _ids(session, table) for table, _ in counted}
    there = sum(map(len, ids.values()))
    for table, condition in counted:
        wanted = len(ids[table]) if there <= count else len(ids[table]) * count // there
        for part in in_parts(draw.sample(ids[table], wanted)):
            rows = session.execute(
                select(table.turn_id, table.person_id).where(
                    table.id.in_(part), condition, table.turn_id < before
                )
            )
            yield from rows


def _ids(session: Session, table: Any) -> range:
    """Return the range that a table's ids are in."""
    first, last = session.execute(select(func.min(table.id), func.max(table.id))).one()
    return range(first, last + 1) if first is not None else range(0)
