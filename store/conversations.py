"""Conversations and their turns: questions, the prompts that were served, and replies.

Invariant: a turn's row exists before the model is asked, and holds the whole reply before the
reply is shown as final. A turn left `PENDING` by a crash is not history.
"""

from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import Session

from store.database import Database
from store.domain import (
    Access,
    Conversation,
    Exchange,
    FinishReason,
    Message,
    Place,
    Prompt,
    SentKind,
    Turn,
    TurnState,
    Usage,
)
from store.errors import TurnNotFound
from store.opinions import Opinion, read_opinions
from store.parts import is_being_erased, memories_in, passages_in, read_parts, write_parts
from store.tables import (
    IS_UNFINISHED,
    ConversationRow,
    CorrectionRow,
    ErasureRow,
    FeedbackRow,
    PersonRow,
    SentMessageRow,
    SpentRow,
    TurnPartRow,
    TurnRow,
    plain,
)
from store.teaching import held_back

OTHERS_LIKE = 2
"""The lead of 👍 from which an answer stays when somebody asks for another one."""


class Conversations:
    """The conversations of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def current(self, place: Place) -> Conversation:
        """Return the conversation that goes on in a place, or begin one."""
        with self._database.reading() as session:
            found = _newest(session, place)
            if found is not None:
                return _conversation(found)
        with self._database.session() as session:
            self._database.lock(session, place.chat_id)
            row = _newest(session, place) or self._begin(session, place)
            return _conversation(row)

    def start_new(self, place: Place) -> Conversation:
        """Begin the next conversation; the ones before are no longer history."""
        with self._database.session() as session:
            return _conversation(self._begin(session, place))

    def begin_turn(
        self,
        conversation_id: int,
        person_id: int,
        question: str,
        *,
        model: str,
        regenerates_id: int | None = None,
        update_id: int | None = None,
        check: Callable[[], None] | None = None,
    ) -> Turn:
        """Store a question as a new turn, before anything is done about it.

        An update that a process began to answer before it died gets its old turn: finished if the
        reply was written, or else to be answered again. `check` is called before a new turn is
        stored, while no other turn of the person can be; what it raises is raised. Raises
        `TurnNotFound` if the question that is to be answered again is being erased.
        """
        with self._database.session() as session:
            self._database.lock(session, person_id)
            if regenerates_id is not None and _is_being_erased(session, regenerates_id):
                raise TurnNotFound(regenerates_id)
            begun = _asked_by(session, update_id)
            if begun is not None:
                if begun.state != TurnState.FINAL:
                    begun.state = TurnState.PENDING
                return _turn(session, begun)
            if check is not None:
                check()
            row = TurnRow(
                conversation_id=conversation_id,
                person_id=person_id,
                update_id=update_id,
                regenerates_id=regenerates_id,
                state=TurnState.PENDING,
                question=plain(question),
                messages=[],
                completion="",
                adapter=None,
                model=model,
                sampling={},
                prompt_tokens=0,
                completion_tokens=0,
                seconds=0.0,
                finish_reason=None,
                created_at=self._database.now(),
            )
            session.add(row)
            session.flush()
            return _turn(session, row)

    def record_prompt(self, turn_id: int, prompt: Prompt, sampling: dict[str, object]) -> None:
        """Store the prompt that the model is about to be given, and the sources of its parts.

        Words of a source that was erased while the prompt was built are taken out. Raises
        `TurnNotFound`.
        """
        with self._database.session() as session:
            row = _turn_row(session, turn_id)
            row.messages = [asdict(message) for message in prompt.messages]
            row.sampling = sampling
            write_parts(session, row, prompt.parts)

    def finish_turn(
        self,
        turn_id: int,
        *,
        state: TurnState,
        completion: str = "",
        adapter: str | None = None,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        seconds: float = 0.0,
        finish_reason: FinishReason | None = None,
    ) -> Turn:
        """Store the outcome of a turn. Raises `TurnNotFound` (its person may have erased it)."""
        with self._database.session() as session:
            row = _turn_row(session, turn_id)
            row.state = state
            row.completion = completion
            row.adapter = adapter
            row.prompt_tokens = prompt_tokens
            row.completion_tokens = completion_tokens
            row.seconds = seconds
            row.finish_reason = finish_reason
            return _turn(session, row)

    def turn(self, turn_id: int, *, chat_id: int | None = None) -> Turn:
        """Return a turn; with `chat_id`, only one of that chat. Raises `TurnNotFound`."""
        with self._database.reading() as session:
            row = _turn_row(session, turn_id)
            conversation = session.get_one(ConversationRow, row.conversation_id)
            if chat_id is not None and conversation.chat_id != chat_id:
                raise TurnNotFound(turn_id)
            return _turn(session, row)

    def last_turn(self, conversation_id: int) -> Turn | None:
        """Return the newest finished turn of a conversation, or None."""
        with self._database.reading() as session:
            row = session.scalars(_finished(conversation_id).limit(1)).first()
            return _turn(session, row) if row is not None else None

    def history(
        self, conversation_id: int, *, before: int | None = None, limit: int = 50
    ) -> tuple[Exchange, ...]:
        """Return finished exchanges, oldest first; of regenerated answers, only the last.

        An earlier answer that leads by `OTHERS_LIKE` or more stays, so that nobody alone puts
        another in its place. A reply that was corrected is given as corrected. A reply that was
        written from words that were erased, or that is being erased, is left out. `before` leaves
        out that turn and everything later; `limit` bounds what is read.
        """
        newest = (
            select(TurnRow.id, TurnRow.regenerates_id, TurnRow.question, TurnRow.completion)
            .where(
                TurnRow.conversation_id == conversation_id,
                TurnRow.state == TurnState.FINAL,
                ~is_being_erased(),
                ~_WAS_SERVED_ERASED_WORDS,
            )
            .order_by(TurnRow.id.desc())
            .limit(limit)
        )
        if before is not None:
            newest = newest.where(TurnRow.id < before)
        with self._database.reading() as session:
            rows = session.execute(newest).all()
            opinions = read_opinions(
                session,
                [row[0] for row in rows],
                ratings=_USABLE_RATING,
                corrections=_USABLE_CORRECTION,
            )
        kept: dict[int, tuple[int, Exchange]] = {}
        for id, root, question, completion in rows:  # the newest comes first
            first, opinion = root or id, opinions.get(id, Opinion())
            support = kept[first][0] if first in kept else 0
            is_liked_more = opinion.lead >= OTHERS_LIKE and opinion.support > support
            if first not in kept or is_liked_more:
                kept[first] = opinion.support, _exchange(id, question, completion, opinion)
        return tuple(exchange for _, (_, exchange) in sorted(kept.items()))

    def versions(self, turn_id: int) -> tuple[Turn, ...]:
        """Return the first answer to a turn's question and its regenerations, oldest first."""
        with self._database.reading() as session:
            row = _turn_row(session, turn_id)
            root = row.regenerates_id or row.id
            rows = session.scalars(
                select(TurnRow)
                .where(or_(TurnRow.id == root, TurnRow.regenerates_id == root))
                .order_by(TurnRow.id)
            ).all()
            return tuple(_turn(session, each) for each in rows)

    def record_sent(
        self, turn_id: int, chat_id: int, message_ids: tuple[int, ...], kind: SentKind
    ) -> None:
        """Store which Telegram messages show a turn. Raises `TurnNotFound`."""
        with self._database.session() as session:
            _turn_row(session, turn_id)
            for message_id in message_ids:
                session.merge(
                    SentMessageRow(
                        chat_id=chat_id, message_id=message_id, turn_id=turn_id, kind=kind
                    )
                )

    def shown_in(self, chat_id: int, message_id: int, kind: SentKind) -> int | None:
        """Return the id of the turn that a Telegram message shows, or None."""
        with self._database.reading() as session:
            row = session.get(SentMessageRow, (chat_id, message_id))
            return row.turn_id if row is not None and row.kind == kind else None

    def shown_by(self, turn_id: int, chat_id: int) -> tuple[int, ...]:
        """Return the ids of the Telegram messages that show a turn's reply, first to last."""
        with self._database.reading() as session:
            return tuple(
                session.scalars(
                    select(SentMessageRow.message_id)
                    .where(
                        SentMessageRow.turn_id == turn_id,
                        SentMessageRow.chat_id == chat_id,
                        SentMessageRow.kind == SentKind.REPLY,
                    )
                    .order_by(SentMessageRow.message_id)
                )
            )

    def usage(
        self, person_id: int, *, turns: timedelta, pending: timedelta, tokens: timedelta
    ) -> Usage:
        """Return a person's use of the bot, each kind over the time given for it.

        Turns that were erased count as well.
        """
        now = self._database.now()
        since = now - max(turns, pending, tokens)
        asked_at, erased_at = TurnRow.created_at, SpentRow.created_at
        used = TurnRow.prompt_tokens + TurnRow.completion_tokens
        is_pending = TurnRow.state == TurnState.PENDING
        asked = select(
            func.count().filter(asked_at > now - turns),
            func.count().filter(asked_at > now - pending, is_pending),
            func.coalesce(func.sum(used).filter(asked_at > now - tokens), 0),
        ).where(TurnRow.person_id == person_id, asked_at > since)
        erased = select(
            func.coalesce(func.sum(SpentRow.turns).filter(erased_at > now - turns), 0),
            func.coalesce(func.sum(SpentRow.tokens).filter(erased_at > now - tokens), 0),
        ).where(SpentRow.person_id == person_id, erased_at > since)
        with self._database.reading() as session:
            asked_turns, unanswered, asked_tokens = session.execute(asked).one()
            erased_turns, erased_tokens = session.execute(erased).one()
        return Usage(
            turns=asked_turns + int(erased_turns),
            pending=unanswered,
            tokens=int(asked_tokens) + int(erased_tokens),
        )

    def count(self) -> int:
        """Return the number of finished turns."""
        unfinished = select(func.count()).select_from(TurnRow).where(IS_UNFINISHED)
        with self._database.reading() as session:
            every = session.scalar(select(func.count()).select_from(TurnRow)) or 0
            return every - (session.scalar(unfinished) or 0)

    def _begin(self, session: Session, place: Place) -> ConversationRow:
        row = ConversationRow(
            chat_id=place.chat_id, thread_id=place.thread_id, started_at=self._database.now()
        )
        session.add(row)
        session.flush()
        return row


def _exchange(turn_id: int, question: str, completion: str, opinion: Opinion) -> Exchange:
    """Return a question with its reply, or with the correction that replaces it."""
    correction = next(iter(opinion.standing()), None)
    return Exchange(
        turn_id=turn_id,
        correction_id=correction.id if correction else None,
        question=question,
        reply=correction.text if correction else completion,
    )


def _newest(session: Session, place: Place) -> ConversationRow | None:
    return session.scalars(
        select(ConversationRow)
        .where(
            ConversationRow.chat_id == place.chat_id,
            ConversationRow.thread_id == place.thread_id,
        )
        .order_by(ConversationRow.id.desc())
        .limit(1)
    ).first()


def _finished(conversation_id: int) -> Any:
    return (
        select(TurnRow)
        .where(TurnRow.conversation_id == conversation_id, TurnRow.state == TurnState.FINAL)
        .order_by(TurnRow.id.desc())
    )


def _turn_row(session: Session, turn_id: int) -> TurnRow:
    row = session.get(TurnRow, turn_id)
    if row is None:
        raise TurnNotFound(turn_id)
    return row


def _is_being_erased(session: Session, turn_id: int) -> bool:
    asked = select(TurnRow.id).where(TurnRow.id == turn_id, is_being_erased())
    return session.scalar(asked) is not None


def _asked_by(session: Session, update_id: int | None) -> TurnRow | None:
    if update_id is None:
        return None
    return session.scalars(select(TurnRow).where(TurnRow.update_id == update_id)).first()


def _conversation(row: ConversationRow) -> Conversation:
    return Conversation(
        id=row.id,
        place=Place(chat_id=row.chat_id, thread_id=row.thread_id),
        started_at=row.started_at,
    )


def _turn(session: Session, row: TurnRow) -> Turn:
    conversation = session.get_one(ConversationRow, row.conversation_id)
    messages = tuple(Message(**message) for message in row.messages)
    parts = read_parts(session, row.id) if messages else ()
    return Turn(
        id=row.id,
        conversation_id=row.conversation_id,
        place=Place(chat_id=conversation.chat_id, thread_id=conversation.thread_id),
        person_id=row.person_id,
        state=TurnState(row.state),
        question=row.question,
        messages=messages,
        parts=parts,
        completion=row.completion,
        adapter=row.adapter,
        model=row.model,
        sampling=row.sampling,
        passages=passages_in(session, messages, parts),
        memories=memories_in(session, messages, parts, conversation.chat_id),
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        seconds=row.seconds,
        finish_reason=FinishReason(row.finish_reason) if row.finish_reason else None,
        regenerates_id=row.regenerates_id,
        update_id=row.update_id,
        created_at=row.created_at,
    )


def _is_usable(person_id: Any) -> ColumnElement[bool]:
    """Return the condition under which a person's words may be used in the conversation."""
    return exists().where(
        PersonRow.id == person_id,
        PersonRow.access != Access.DENIED,
        PersonRow.id.not_in(held_back()),
        PersonRow.id.not_in(select(ErasureRow.person_id)),
    )


_USABLE_RATING = _is_usable(FeedbackRow.person_id)
_USABLE_CORRECTION = _is_usable(CorrectionRow.person_id)
_WAS_SERVED_ERASED_WORDS = exists().where(
    TurnPartRow.turn_id == TurnRow.id, TurnPartRow.erased.is_(True)
)
