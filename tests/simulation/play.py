"""One seed, from its first message to the check of every promise."""

import asyncio
import logging
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from sqlalchemy import func, select

from bot.telegram.buttons import ForgetButton, ReplyAction, ReplyButton
from loopback import BotApi, Chat, User
from store.database import Database
from store.domain import TurnState
from store.settings import Settings
from store.tables import FeedbackRow, TurnRow, UpdateRow
from store.updates import LEASE
from tests.simulation.faults import TROUBLE_SECONDS, Plan
from tests.simulation.loop import SimulatedLoop
from tests.simulation.replica import Replica
from tests.telegram.running import make_settings

QUIET_SECONDS = 600.0
"""Time after the trouble in which everything must have come right."""

RESTART_SECONDS = (0.0, 5.0, LEASE.total_seconds() + 30)


@dataclass(kw_only=True)
class Person:
    """Somebody who talks to the bot, and what they are owed."""

    user: User
    chat: Chat
    asked: dict[str, int] = field(default_factory=dict)
    """Questions, with the number of the message."""
    rated: dict[int, int] = field(default_factory=dict)
    """The last thumb by turn."""
    forgotten_at: float | None = None
    """The time at which they confirmed that everything is to be forgotten."""


class Play:
    """A world with people, replicas and trouble."""

    def __init__(self, seed: int, template: Path) -> None:
        self.draw = random.Random(seed)
        random.seed(seed)  # pauses are drawn there
        self.loop = SimulatedLoop(self.draw)
        self.plan = Plan.drawn(self.loop, self.draw)
        self.errors: list[str] = []
        self._folder = Path(tempfile.mkdtemp(prefix="ratchet-seed-", dir=template.parent))
        self._file = self._folder / "ratchet.db"
        shutil.copy(template, self._file)
        self._settings: Settings = make_settings(
            "http://telegram", data_dir=self._folder, passages=0, memories=0
        )
        self._replicas: list[Replica] = []
        self._crashes_left = self.plan.crashes

    def run(self) -> list[str]:
        """Play the seed; return the promises that were broken."""
        with self._simulated_time():
            try:
                self.loop.run_until_complete(self._play())
            finally:
                for each in self._replicas:
                    each.close()
                _drop(self.loop)
                shutil.rmtree(self._folder, ignore_errors=True)
        return self.errors

    @contextmanager
    def _simulated_time(self) -> Iterator[None]:
        asyncio.set_event_loop(self.loop)
        with patch.object(time, "monotonic", self.loop.time):
            yield
        asyncio.set_event_loop(None)

    async def _play(self) -> None:
        self.api = BotApi(self._settings.telegram.token.get_secret_value(), clock=self._clock)  # type: ignore[union-attr]
        people = [self._person(number) for number in range(self.draw.randint(1, 3))]
        self._alone = alone = self.plan.replicas == 1 and self.draw.random() < 0.5
        replicas = [
            asyncio.create_task(self._keep_running(alone), name="replica")
            for _ in range(self.plan.replicas)
        ]
        delivering = asyncio.create_task(self._deliver(), name="delivery")
        await asyncio.gather(*(self._live(each) for each in people))
        await asyncio.sleep(max(0.0, TROUBLE_SECONDS - self.loop.time()))
        ends = self.loop.time() + QUIET_SECONDS
        while self.loop.time() < ends and not self._is_quiet():
            await asyncio.sleep(5)
        for task in (*replicas, delivering):
            if task.done() and not task.cancelled() and task.exception():
                self.errors.append(f"{task.get_name()} ended: {task.exception()!r}")
        self._check(people)

    def _is_quiet(self) -> bool:
        """Return whether nothing is left to do for anybody."""
        if self.api.pending or any(not each.is_idle for each in self._replicas):
            return False
        living = [each for each in self._replicas if not each.is_dead]
        return len(living) == self.plan.replicas and not living[0].unfinished

    def _clock(self) -> float:
        return self.plan.now().timestamp()

    def _person(self, number: int) -> Person:
        user = self.api.user(100 + number, first_name=f"person {number}")
        return Person(user=user, chat=self.api.private(user))

    async def _keep_running(self, alone: bool) -> None:
        """Run a process; start another one a while after it died."""
        while True:
            dies_at = None
            if self._crashes_left:
                self._crashes_left -= 1
                dies_at = self.draw.randint(1, 80)
            replica = Replica(
                self.api, self.plan, self._settings, self._file, dies_at_write=dies_at, alone=alone
            )
            self._replicas.append(replica)
            await replica.start()
            await replica.died.wait()
            await asyncio.sleep(self.draw.choice(RESTART_SECONDS))

    async def _deliver(self) -> None:
        """Post updates one after another to any living process, again until it takes them."""
        offset = 0
        while True:
            _, body = await self.api.call("getUpdates", {"offset": offset, "timeout": 30})
            updates = body["result"] if body["ok"] else []
            assert isinstance(updates, list)
            for update in updates:
                assert isinstance(update, dict)
                while not await self._posted(update):
                    await asyncio.sleep(1)
                if self.plan.in_trouble and self.draw.random() < self.plan.repeats:
                    asyncio.get_running_loop().call_later(
                        self.draw.uniform(0, 20), self._post_again, update
                    )
                offset = int(update["update_id"]) + 1

    def _post_again(self, update: dict[str, object]) -> None:
        self._again = asyncio.create_task(self._posted(update), name="again")

    async def _posted(self, update: dict[str, object]) -> bool:
        living = [each for each in self._replicas if each.is_ready and not each.is_dead]
        if not living:
            return False
        replica = self.draw.choice(living)
        taking = asyncio.create_task(replica.receive([update]), name="taking")
        while not taking.done():
            await asyncio.wait((taking,), timeout=1)
            if replica.is_dead:
                return False
        return not replica.is_dead

    async def _live(self, person: Person) -> None:
        """Ask, rate, correct, flood or forget, with pauses."""
        for number in range(self.draw.randint(1, 5)):
            await asyncio.sleep(self.draw.choice([0.1, 2, 15]))
            chance = self.draw.random()
            if chance < 0.1:
                for extra in range(self.draw.randint(2, 12)):
                    await self._ask(person, f"quick question {number} {extra}")
            elif chance < 0.17 and person.asked and person.forgotten_at is None:
                await self._forget(person)
            elif chance < 0.5:
                await self._rate(person)
            else:
                await self._ask(person, f"question {number}")

    async def _ask(self, person: Person, text: str) -> None:
        text = f"{text} of {person.user.first_name}"
        person.asked[text] = await person.chat.send(person.user, text)

    async def _rate(self, person: Person) -> None:
        """Press a thumb under the last reply, if there is one; the tap may be answered or not."""
        buttons = [
            (message.id, str(each["callback_data"]))
            for message in person.chat.bot_messages
            for each in message.buttons
        ]
        thumbs = [
            (message_id, button, data)
            for message_id, data in buttons
            if (button := ReplyButton.parse(data))
            and button.action in (ReplyAction.UP, ReplyAction.DOWN)
        ]
        if not thumbs:
            return
        message_id, button, data = self.draw.choice(thumbs[-4:])
        if button.turn_id in person.rated:
            return  # a second thumb would take the first one back, or not, by the order
        person.rated[button.turn_id] = 1 if button.action is ReplyAction.UP else -1
        with suppress(TimeoutError):
            await person.chat.tap_data(person.user, message_id, data, timeout=20)

    async def _forget(self, person: Person) -> None:
        message_id = await person.chat.send(person.user, "/forget")
        data = ForgetButton(person_id=person.user.id, yes=True).data
        await asyncio.sleep(20)
        shown = [each.id for each in person.chat.bot_messages if data in str(each.buttons)]
        if not shown:
            return
        del message_id
        person.forgotten_at = self.loop.time()
        with suppress(TimeoutError):
            await person.chat.tap_data(person.user, shown[-1], data, timeout=20)

    def _check(self, people: list[Person]) -> None:
        database = Database(f"sqlite:///{self._file}", clock=self.plan.now)
        try:
            with database.reading() as session:
                turns = session.scalars(select(TurnRow).order_by(TurnRow.id)).all()
                ratings = session.scalars(
                    select(FeedbackRow).where(FeedbackRow.replaced_at.is_(None))
                ).all()
                left = session.scalars(
                    select(UpdateRow).where(
                        UpdateRow.handled_at.is_(None), UpdateRow.failure.is_(None)
                    )
                ).all()
                failed = session.scalar(select(func.count()).where(UpdateRow.failure.is_not(None)))
        finally:
            database.close()
        if left:
            self.errors.append(f"updates are left: {[each.id for each in left]}")
        if failed:
            self.errors.append(f"{failed} updates failed")
        questions = Counter(turn.question for turn in turns)
        self.errors += [f"answered {n} times: {text}" for text, n in questions.items() if n > 1]
        unfinished = [turn.id for turn in turns if turn.state != TurnState.FINAL]
        if unfinished:
            self.errors.append(f"turns are not final: {unfinished}")
        for person in people:
            self._check_person(person, turns, ratings)
        shown = sum(len(person.chat.bot_messages) for person in people)
        most = len(turns) + 2 * self.plan.ambiguous + 4 * self.plan.crashes
        most += sum(3 + len(person.asked) for person in people)
        if shown > most:
            self.errors.append(f"{shown} messages were shown, at most {most} are accounted for")

    def _check_person(
        self, person: Person, turns: "list[TurnRow]", ratings: "list[FeedbackRow]"
    ) -> None:
        mine = [turn for turn in turns if turn.person_id == person.user.id]
        known = {turn.question for turn in mine}
        notices = [message.id for message in person.chat.bot_messages if not message.buttons]
        for text, message_id in person.asked.items():
            told = any(notice > message_id for notice in notices)
            if text not in known and not told and person.forgotten_at is None:
                self.errors.append(f"neither answered nor told: {text}")
        order = [person.asked[turn.question] for turn in mine if turn.question in person.asked]
        if self._alone and order != sorted(order):
            self.errors.append(f"answered out of order: {order}")
        given = {each.turn_id: each.rating for each in ratings if each.person_id == person.user.id}
        for turn_id, rating in person.rated.items():
            if turn_id in {turn.id for turn in mine} and given.get(turn_id) != rating:
                self.errors.append(
                    f"turn {turn_id} was rated {rating}, kept is {given.get(turn_id)}"
                )


def _drop(loop: SimulatedLoop) -> None:
    """Throw a loop away with all its tasks, silently: what they still try is of a dead process."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine = task.get_coro()
            if coroutine is not None:
                with suppress(BaseException):
                    coroutine.close()
        loop.close()
    finally:
        logging.disable(before)


def make_template(folder: Path) -> Path:
    """Return an empty database at head, of which each seed gets a copy."""
    path = folder / "template.db"
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    with database._outside_transactions() as cursor:
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return path
