"""Takes in every update before it is confirmed to Telegram, so that none is lost.

An update passes an allowance, is committed to SQL, and only then is parsed and handed on. While the
database cannot be reached, Telegram waits, and so do people. What cannot be parsed is one row
marked as failed; the next update goes on.

After a crash, the next process handles the rest, or another replica does once the lease has run
out; see `store/updates.py`. A crash just after Telegram has taken a message, and before its id is
stored, sends that one message twice.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from telegram import Bot, Update
from telegram.error import TelegramError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from bot.allowance import Allowance, Rate
from bot.batches import Batches
from bot.telegram.addressed import is_for_us
from bot.telegram.notices import Notices
from bot.telegram.outgoing import Urgency, sending
from bot.telegram.raw import (
    chat_of,
    cleaned,
    id_of,
    ids_fit,
    kind_of,
    may_be_for_us,
    person_of,
    with_anonymous_admin,
)
from bot.telegram.retries import backoff
from store.errors import StoreError
from store.updates import LEASE, ReceivedUpdate, Updates

logger = logging.getLogger(__name__)

KEEP_SECONDS = LEASE.total_seconds() / 6
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0

PERSONS_RATE = Rate(burst=30, per_second=1)
CHATS_RATE = Rate(burst=120, per_second=2)
ADMINS_RATE = Rate(burst=120, per_second=4)
"""How fast a person, a group and an admin may send updates."""

FIRST_RATE = Rate(burst=5, per_second=5 / 60)
"""How fast a person may send updates whatever the others in their group do."""

TELL_AGAIN_SECONDS = 60.0
TOO_FAST = "That is faster than I can answer. I leave out some of it; please wait a moment."
OVERLOADED = "Too many people are asking me things. Please send that again in a minute."
GIVEN_UP = "I could not handle your message: it failed several times. Please ask in another way."

T = TypeVar("T")


class Inbox:
    """Takes in the updates of one process, and hands them on in the order of their ids."""

    def __init__(
        self,
        updates: Updates,
        hand_on: Callable[[Update], None],
        *,
        admins: frozenset[int],
        speaks_to: Callable[[int | None, int], bool],
        persons_rate: Rate = PERSONS_RATE,
        chats_rate: Rate = CHATS_RATE,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
    ) -> None:
        self._updates = updates
        self._hand_on = hand_on
        self._admins = admins
        self._first_pause_seconds = first_pause_seconds
        self._persons = Allowance(persons_rate)
        self._chats = Allowance(chats_rate)
        self._firsts = Allowance(FIRST_RATE)
        self._of_admins = Allowance(ADMINS_RATE)
        self._speaks_to = speaks_to
        self._told_chats = Notices(TELL_AGAIN_SECONDS)
        self._told_people = Notices(TELL_AGAIN_SECONDS)
        self._handed_on: set[int] = set()
        """Updates that were handed on and are not marked yet."""
        self._unmarked: set[int] = set()
        self._begun = Batches(self._begin)
        self._ended = Batches(self._mark)
        self._telling: set[asyncio.Task[None]] = set()

    async def receive(self, bodies: Sequence[Any], bot: Bot) -> None:
        """Take in updates as Telegram sent them; returns once all that are for us are stored.

        Waits while the database cannot be reached. No update makes this fail.
        """
        received = [each for body in bodies if (each := await self._admitted(body, bot))]
        received.sort(key=lambda each: each.id)
        try:
            new = await self._stored(lambda: self._updates.take_in(received))
        except Exception:  # one of them cannot be stored: the others can
            new = set()
            for each in received:
                new |= await self._stored_alone(each)
        for each in received:
            if each.id in new and each.id not in self._handed_on:
                await self._parse(each, bot)
        await self._mark_later()

    async def _admitted(self, body: Any, bot: Bot) -> ReceivedUpdate | None:
        """Return an update that may be for us and is within its sender's allowance; else None."""
        update_id = id_of(body)
        if update_id is None:
            logger.error("something that is no update was received: a %s", type(body).__name__)
            return None
        try:
            body = with_anonymous_admin(body)
            if not may_be_for_us(body, bot.id, bot.username):
                return None
            if not self._is_within_allowance(body):
                self._tell_too_fast(body, bot)
                return None
            return ReceivedUpdate(id=update_id, person_id=person_of(body), body=cleaned(body))
        except Exception as error:
            logger.exception("update %d cannot be taken in", update_id)
            await self.failed(update_id, error)
            return None

    async def _stored_alone(self, received: ReceivedUpdate) -> set[int]:
        try:
            return await self._stored(lambda: self._updates.take_in([received]))
        except Exception as error:
            logger.exception("update %d cannot be stored", received.id)
            await self.failed(received.id, error)
            return set()

    async def _parse(self, received: ReceivedUpdate, bot: Bot) -> None:
        """Parse a stored update and hand it on; if it cannot be parsed, its row says why."""
        try:
            update = Update.de_json(received.body, bot)
            _check_ids(update)
            is_ours = is_for_us(update)
        except Exception as error:
            logger.exception("update %d cannot be understood", received.id)
            await self.failed(received.id, error)
            return
        if is_ours:
            self._handed_on.add(received.id)
            self._hand_on(update)
        else:
            self._unmarked.add(received.id)  # marked with the others of its batch

    def _is_within_allowance(self, body: Any) -> bool:
        person_id, chat_id = person_of(body), chat_of(body)
        if person_id in self._admins:
            return self._of_admins.take(person_id)
        if person_id is not None and not self._persons.take(person_id):
            return False
        is_group = chat_id is not None and chat_id != person_id
        if not is_group or kind_of(body) == "message_reaction":  # reactions are not answered
            return True
        is_first = person_id is not None and self._firsts.take(person_id)
        return is_first or self._chats.take(chat_id)  # type: ignore[arg-type]

    def _tell_too_fast(self, body: Any, bot: Bot) -> None:
        """Tell the chat once a minute that updates are left out, if the bot speaks there."""
        chat_id, person_id = chat_of(body), person_of(body)
        if chat_id is None or kind_of(body) == "message_reaction":
            return
        is_person_due = person_id is None or self._told_people.due(person_id)
        if is_person_due and self._told_chats.due(chat_id):
            logger.warning("chat %d sends more than it may: updates are left out", chat_id)
            self._tell(bot, chat_id, TOO_FAST, to=person_id)

    def _tell(self, bot: Bot, chat_id: int, text: str, *, to: int | None) -> None:
        async def tell() -> None:
            try:
                if not await asyncio.to_thread(self._speaks_to, to, chat_id):
                    return
                with sending(Urgency.NOTICE):
                    await bot.send_message(chat_id, text)
            except (TelegramError, StoreError) as error:
                logger.info("chat %d could not be told: %s", chat_id, error)

        task = asyncio.create_task(tell(), name="notice")
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def begin(self, update_id: int) -> None:
        """Record that an update's handling begins; waits while the database cannot be reached."""
        await self._begun.add(update_id)

    async def handled(self, update_id: int) -> None:
        """Mark an update as handled; if the database cannot be reached, mark it later."""
        self._unmarked.add(update_id)
        try:
            await self._ended.add(update_id)
        except StoreError as error:
            logger.warning("update %d will be marked as handled later: %s", update_id, error)

    async def _mark_later(self) -> None:
        """Mark what is not for the bot; if the database cannot be reached, do it later."""
        try:
            await self._mark()
        except StoreError as error:
            logger.warning("updates will be marked as handled later: %s", error)

    def leave_out(self, chat_id: int, person_id: int, bot: Bot) -> None:
        """Tell a person, once a minute, that an update of theirs is left out: too many wait."""
        if self._told_people.due(person_id):
            self._tell(bot, chat_id, OVERLOADED, to=person_id)

    async def _begin(self, update_ids: Sequence[int]) -> None:
        await self._stored(lambda: self._updates.begin(update_ids))

    async def _mark(self, _: Sequence[int] = ()) -> None:
        """Mark everything that is handled and not marked."""
        marked = list(self._unmarked)
        if marked:
            await asyncio.to_thread(self._updates.handled, marked)
            self._unmarked.difference_update(marked)
            self._handed_on.difference_update(marked)

    async def release(self, update_ids: Sequence[int]) -> None:
        """Leave updates to the next process, at once, when this one stops in good order."""
        self._handed_on.clear()
        try:
            await self._mark()
            await asyncio.to_thread(self._updates.release, update_ids)
        except StoreError as error:
            logger.warning("what is left will be taken up after %s: %s", LEASE, error)

    async def failed(self, update_id: int, error: Exception) -> None:
        """Mark an update as one that cannot be handled."""
        self._handed_on.discard(update_id)
        reason = f"{type(error).__name__}: {error}"
        try:
            await asyncio.to_thread(self._updates.fail, update_id, reason)
        except Exception:
            logger.exception("update %d cannot be marked as failed", update_id)

    async def keep(self, bot: Bot, *, alone: bool) -> None:
        """Renew the lease of our updates and take over those of dead processes, until cancelled.

        `alone` says that no other process handles updates of this database; then leases of earlier
        processes need not run out first.
        """
        while True:
            try:
                await self._mark()
                await asyncio.to_thread(self._updates.hold)
                given_up = await asyncio.to_thread(self._updates.give_up, alone=alone)
                for each in given_up:
                    logger.error("update %d is given up: processes died of it", each.id)
                    chat_id = chat_of(each.body)
                    if chat_id is not None and kind_of(each.body) == "message":
                        self._tell(bot, chat_id, GIVEN_UP, to=each.person_id)
                for each in await asyncio.to_thread(self._updates.take_over, alone=alone):
                    logger.info("update %d was left unanswered: going on", each.id)
                    await self._parse(each, bot)
                await asyncio.to_thread(self._updates.sweep)
            except StoreError as error:
                logger.warning("the inbox cannot be read: %s", error)
            else:
                alone = False
            await asyncio.sleep(KEEP_SECONDS)

    async def _stored(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread, again and again until the database takes it."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(StoreError),
            wait=backoff(self._first_pause_seconds, LONGEST_PAUSE_SECONDS),
            before_sleep=_log_failure,
        )
        return await retrying(asyncio.to_thread, work)


def _check_ids(update: Update) -> None:
    """Raise ValueError for ids that are no numbers, or too large for a database."""
    user, chat, message = update.effective_user, update.effective_chat, update.effective_message
    original = getattr(message, "reply_to_message", None)
    ids = [getattr(each, "id", None) for each in (user, chat)]
    ids += [getattr(each, "message_id", None) for each in (message, original)]
    reaction = update.message_reaction
    if not ids_fit(*ids, reaction.message_id if reaction else None):
        raise ValueError("an id is not a number, or too large")


def _log_failure(state: RetryCallState) -> None:
    assert state.outcome is not None
    logger.warning("an update waits for the database: %s", state.outcome.exception())
