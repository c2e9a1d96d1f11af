"""Golden answers: those that an admin says every version must still know.

They are always measured and never trained on. An answer is a masked copy, so that nothing that is
rated, corrected or asked later changes it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from store.database import Database
from store.domain import Message
from store.errors import GoldenAnswerNotFound, TurnNotFound
from store.imports import Preference
from store.masking import mask
from store.opinions import read_opinions
from store.tables import CorrectionRow, GoldenRow, TurnRow
from store.teaching import TeachingRule

FROM_CHAT = "/golden"


@dataclass(frozen=True, kw_only=True)
class GoldenAnswer:
    """A question and the answer that every version must still know."""

    id: int = 0
    turn_id: int | None = None
    """The turn that it was copied from; None if it was imported."""
    prompt: tuple[Message, ...]
    answer: str
    worse: str | None = None
    """An answer that must stay less likely; None if there is none."""
    source: str = field(default=FROM_CHAT, compare=False)

    @property
    def question(self) -> str:
        """The last words of the prompt, in a form in which equal questions are equal."""
        return plain_question(self.prompt)


class GoldenAnswers:
    """The golden answers of one database."""

    def __init__(self, database: Database, rule: TeachingRule) -> None:
        self._database = database
        self._rule = rule

    def all(self) -> tuple[GoldenAnswer, ...]:
        """Return every golden answer whose people may still teach, oldest first."""
        usable = select(TurnRow.id).where(self._rule.turns)
        corrections = select(CorrectionRow.id).where(self._rule.corrections)
        with self._database.reading() as session:
            rows = session.scalars(
                select(GoldenRow)
                .where(
                    GoldenRow.turn_id.is_(None) | GoldenRow.turn_id.in_(usable),
                    GoldenRow.correction_id.is_(None) | GoldenRow.correction_id.in_(corrections),
                )
                .order_by(GoldenRow.id)
            )
            return tuple(_golden(row) for row in rows)

    def count(self) -> int:
        """Return the number of golden answers."""
        with self._database.reading() as session:
            return session.scalar(select(func.count(GoldenRow.id))) or 0

    def add(self, turn_id: int) -> bool:
        """Make the answer of a turn golden, or its correction that stands; False if it is already.

        An earlier copy of the same turn is replaced. Raises `TurnNotFound`, also for a turn that
        must not be learned from.
        """
        with self._database.session() as session:
            row = session.scalars(
                select(TurnRow).where(TurnRow.id == turn_id, self._rule.turns)
            ).first()
            if row is None:
                raise TurnNotFound(turn_id)
            opinions = read_opinions(
                session,
                [turn_id],
                ratings=self._rule.ratings,
                corrections=self._rule.corrections,
            )
            standing = opinions[turn_id].standing() if turn_id in opinions else ()
            correction = standing[0] if standing else None
            answer = GoldenAnswer(
                turn_id=turn_id,
                prompt=(Message(role="user", content=mask(row.question)),),
                answer=mask(correction.text if correction else row.completion),
                worse=mask(row.completion) if correction else None,
            )
            if session.scalar(select(GoldenRow.id).where(GoldenRow.sha256 == _sha256(answer))):
                return False
            session.execute(delete(GoldenRow).where(GoldenRow.turn_id == turn_id))
            self._add(session, answer, correction.id if correction else None)
        return True

    def drop_turn(self, turn_id: int) -> bool:
        """Let the answer of a turn no longer be golden; return whether it was."""
        return self._drop(GoldenRow.turn_id == turn_id) > 0

    def drop(self, golden_id: int) -> None:
        """Delete a golden answer. Raises `GoldenAnswerNotFound`."""
        if not self._drop(GoldenRow.id == golden_id):
            raise GoldenAnswerNotFound(golden_id)

    def take_in(self, preferences: Iterable[Preference], *, source: str) -> int:
        """Import the answers of a preference file that are not golden yet; return their number.

        What a file labels as bad is left out. Either all others are imported or none.
        """
        added = 0
        with self._database.session() as session:
            known = set(session.scalars(select(GoldenRow.sha256)))
            for each in preferences:
                answer = GoldenAnswer(
                    prompt=each.prompt,
                    answer=each.completion,
                    worse=each.rejected,
                    source=source,
                )
                if each.label is False or _sha256(answer) in known:
                    continue
                known.add(_sha256(answer))
                self._add(session, answer, None)
                added += 1
        return added

    def _add(self, session: Session, answer: GoldenAnswer, correction_id: int | None) -> None:
        session.add(
            GoldenRow(
                turn_id=answer.turn_id,
                correction_id=correction_id,
                prompt=[asdict(message) for message in answer.prompt],
                answer=answer.answer,
                worse=answer.worse,
                source=answer.source,
                sha256=_sha256(answer),
                created_at=self._database.now(),
            )
        )

    def _drop(self, condition: ColumnElement[bool]) -> int:
        with self._database.session() as session:
            gone = session.scalars(delete(GoldenRow).where(condition).returning(GoldenRow.id))
            return len(gone.all())


def plain_question(prompt: tuple[Message, ...]) -> str:
    """Return the last words of a prompt, in a form in which equal questions are equal."""
    return " ".join(prompt[-1].content.casefold().split())


def _golden(row: GoldenRow) -> GoldenAnswer:
    return GoldenAnswer(
        id=row.id,
        turn_id=row.turn_id,
        prompt=tuple(Message(**each) for each in row.prompt),
        answer=row.answer,
        worse=row.worse,
        source=row.source,
    )


def _sha256(answer: GoldenAnswer) -> str:
    texts = [*(f"{each.role}\n{each.content}" for each in answer.prompt), answer.answer]
    texts.append(answer.worse or "")
    return hashlib.sha256("\0".join(texts).encode("utf-8", "replace")).hexdigest()
