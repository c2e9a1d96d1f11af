"""Conversations and their turns: what was asked, what the model was given, what it said.

Invariant: a turn's row exists before the model is asked, and holds the whole reply before the
reply is shown as final. A turn left `PENDING` by a crash is no history.
"""

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from sqlalchemy import case, func, or_, select
from sqlalchemy.orm import Session

from store.database import Database
from store.domain import (
    Conversation,
    FinishReason,
    Memory,
    Message,
    Passage,
    Place,
    SentKind,
    Turn,
    TurnState,
    Usage,
)
from store.errors import TurnNotFound
from store.tables import ConversationRow, SentMessageRow, TurnRow, plain


class Conversations:
    """The conversations of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def current(self, place: Place) -> Conversation:
        """The conversation that goes on in a place; begun if there is none."""
        with self._database.session() as session:
            self._database.take_turns(session, place.chat_id)
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
    ) -> Turn:
        """Store the question before anything is done about it.

        An update that asked before, in a process that died, has its turn again: as it ended, if its
        reply was written, else to be answered anew.
        """
        with self._database.session() as session:
            begun = _asked_by(session, update_id)
            if begun is not None:
                if begun.state != TurnState.FINAL:
                    begun.state = TurnState.PENDING
                return _turn(begun, session.get_one(ConversationRow, begun.conversation_id))
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
                passages=[],
                memories=[],
                prompt_tokens=0,
                completion_tokens=0,
                seconds=0.0,
                finish_reason=None,
                created_at=self._database.now(),
            )
            session.add(row)
            session.flush()
            return _turn(row, session.get_one(ConversationRow, conversation_id))

    def record_prompt(
        self,
        turn_id: int,
        *,
        messages: tuple[Message, ...],
        passages: tuple[Passage, ...],
        memories: tuple[Memory, ...] = (),
        sampling: dict[str, object],
    ) -> None:
        """Store what the model is about to be given. Raises `TurnNotFound`."""
        with self._database.session() as session:
            row = _turn_row(session, turn_id)
            row.messages = [asdict(message) for message in messages]
            row.passages = [asdict(passage) for passage in passages]
            row.memories = [asdict(memory) for memory in memories]
            row.sampling = sampling

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
        """Store how a turn ended. Raises `TurnNotFound` (its person may have erased it)."""
        with self._database.session() as session:
            row = _turn_row(session, turn_id)
            row.state = state
            row.completion = completion
            row.adapter = adapter
            row.prompt_tokens = prompt_tokens
            row.completion_tokens = completion_tokens
            row.seconds = seconds
            row.finish_reason = finish_reason
            return _turn(row, session.get_one(ConversationRow, row.conversation_id))

    def turn(self, turn_id: int, *, chat_id: int | None = None) -> Turn:
        """One turn; with `chat_id`, only if it was held in that chat. Raises `TurnNotFound`."""
        with self._database.reading() as session:
            row = _turn_row(session, turn_id)
            conversation = session.get_one(ConversationRow, row.conversation_id)
            if chat_id is not None and conversation.chat_id != chat_id:
                raise TurnNotFound(turn_id)
            return _turn(row, conversation)

    def last_turn(self, conversation_id: int) -> Turn | None:
        """The newest finished turn of a conversation."""
        with self._database.reading() as session:
            row = session.scalars(_finished(conversation_id).limit(1)).first()
            if row is None:
                return None
            return _turn(row, session.get_one(ConversationRow, row.conversation_id))

    def history(
        self, conversation_id: int, *, before: int | None = None, limit: int = 50
    ) -> tuple[tuple[Message, Message], ...]:
        """Finished question and reply pairs, oldest first; of an answer given again, the last.

        `before` leaves out that turn and everything later; `limit` bounds what is read.
        """
        root = func.coalesce(TurnRow.regenerates_id, TurnRow.id)
        last_versions = (
            select(func.max(TurnRow.id))
            .where(TurnRow.conversation_id == conversation_id, TurnRow.state == TurnState.FINAL)
            .group_by(root)
            .order_by(root.desc())
            .limit(limit)
        )
        if before is not None:
            last_versions = last_versions.where(TurnRow.id < before)
        with self._database.reading() as session:
            rows = session.scalars(
                select(TurnRow).where(TurnRow.id.in_(last_versions)).order_by(root)
            ).all()
        return tuple(
            (
                Message(role="user", content=row.question),
                Message(role="assistant", content=row.completion),
            )
            for row in rows
        )

    def versions(self, turn_id: int) -> tuple[Turn, ...]:
        """The turn that was first answered and every regeneration of it, oldest first."""
        with self._database.reading() as session:
            row = _turn_row(session, turn_id)
            root = row.regenerates_id or row.id
            rows = session.scalars(
                select(TurnRow)
                .where(or_(TurnRow.id == root, TurnRow.regenerates_id == root))
                .order_by(TurnRow.id)
            ).all()
            conversation = session.get_one(ConversationRow, row.conversation_id)
            return tuple(_turn(each, conversation) for each in rows)

    def record_sent(
        self, turn_id: int, chat_id: int, message_ids: tuple[int, ...], kind: SentKind
    ) -> None:
        """Remember which Telegram messages show a turn. Raises `TurnNotFound`."""
        with self._database.session() as session:
            _turn_row(session, turn_id)
            for message_id in message_ids:
                session.merge(
                    SentMessageRow(
                        chat_id=chat_id, message_id=message_id, turn_id=turn_id, kind=kind
                    )
                )

    def shown_in(self, chat_id: int, message_id: int, kind: SentKind) -> int | None:
        """The turn that a Telegram message shows, if it shows one."""
        with self._database.reading() as session:
            row = session.get(SentMessageRow, (chat_id, message_id))
            return row.turn_id if row is not None and row.kind == kind else None

    def shown_by(self, turn_id: int, chat_id: int) -> tuple[int, ...]:
        """The Telegram messages that show a turn's reply, first to last."""
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

    def was_begun(self, update_id: int) -> bool:
        """Whether an update has a turn already, begun by a process that died."""
        with self._database.reading() as session:
            return _asked_by(session, update_id) is not None

    def usage(self, person_id: int, lately: timedelta) -> Usage:
        """What a person has asked for in the time until now."""
        pending = case((TurnRow.state == TurnState.PENDING, 1), else_=0)
        asked = select(
            func.count(),
            func.coalesce(func.sum(pending), 0),
            func.coalesce(func.sum(TurnRow.prompt_tokens + TurnRow.completion_tokens), 0),
        ).where(TurnRow.person_id == person_id, TurnRow.created_at > self._database.now() - lately)
        with self._database.reading() as session:
            turns, unanswered, tokens = session.execute(asked).one()
        return Usage(turns=turns, pending=int(unanswered), tokens=int(tokens))

    def count(self) -> int:
        """How many turns were finished."""
        with self._database.reading() as session:
            return session.scalar(select(func.count()).where(TurnRow.state == TurnState.FINAL)) or 0

    def _begin(self, session: Session, place: Place) -> ConversationRow:
        row = ConversationRow(
            chat_id=place.chat_id, thread_id=place.thread_id, started_at=self._database.now()
        )
        session.add(row)
        session.flush()
        return row


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


def _turn(row: TurnRow, conversation: ConversationRow) -> Turn:
    return Turn(
        id=row.id,
        conversation_id=row.conversation_id,
        place=Place(chat_id=conversation.chat_id, thread_id=conversation.thread_id),
        person_id=row.person_id,
        state=TurnState(row.state),
        question=row.question,
        messages=tuple(Message(**message) for message in row.messages),
        completion=row.completion,
        adapter=row.adapter,
        model=row.model,
        sampling=row.sampling,
        passages=tuple(Passage(**passage) for passage in row.passages),
        memories=tuple(Memory(**memory) for memory in row.memories),
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        seconds=row.seconds,
        finish_reason=FinishReason(row.finish_reason) if row.finish_reason else None,
        regenerates_id=row.regenerates_id,
        update_id=row.update_id,
        created_at=row.created_at,
    )
