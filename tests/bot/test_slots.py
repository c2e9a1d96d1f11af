"""Slots and allowances: everybody has a share, whatever the others do."""

import asyncio
import random

from hypothesis import given
from hypothesis import strategies as st

from bot.allowance import Allowance, Rate
from bot.slots import CHATS_SHARE, PERSONS_SHARE, Slots, leave_slot


class Desk:
    """Work that holds a slot until it is told to end."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.inside: set[str] = set()
        self.end = asyncio.Event()

    async def work(
        self, name: str, person: int, chat: int, *, is_admin: bool = False, leaves: bool = False
    ) -> None:
        async with self._slots.enter(person, chat, is_admin=is_admin):
            self.inside.add(name)
            if leaves:
                leave_slot()
            await self.end.wait()


async def started(*work: "asyncio.Task[None]") -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_person_takes_no_more_than_their_share() -> None:
    desk = Desk(Slots())
    tasks = [asyncio.create_task(desk.work(f"a{n}", 1, n)) for n in range(50)]
    tasks.append(asyncio.create_task(desk.work("b", 2, 2)))
    await started(*tasks)

    assert len(desk.inside) == PERSONS_SHARE + 1
    assert "b" in desk.inside
    desk.end.set()
    await asyncio.gather(*tasks)
    assert len(desk.inside) == 51


async def test_one_chat_takes_no_more_than_its_share() -> None:
    desk = Desk(Slots())
    tasks = [asyncio.create_task(desk.work(f"a{n}", n, -1)) for n in range(50)]
    await started(*tasks)
    assert len(desk.inside) == CHATS_SHARE
    desk.end.set()
    await asyncio.gather(*tasks)


async def test_admins_have_slots_of_their_own() -> None:
    desk = Desk(Slots(total=10, reserve=2))
    tasks = [asyncio.create_task(desk.work(f"a{n}", n, n)) for n in range(50)]
    await started(*tasks)
    assert len(desk.inside) == 8
    tasks.append(asyncio.create_task(desk.work("admin", 99, 99, is_admin=True)))
    await started(*tasks)
    assert "admin" in desk.inside
    desk.end.set()
    await asyncio.gather(*tasks)


async def test_who_leaves_a_slot_makes_room_and_goes_on() -> None:
    desk = Desk(Slots(total=1, reserve=0))
    tasks = [asyncio.create_task(desk.work(f"a{n}", n, n, leaves=True)) for n in range(20)]
    await started(*tasks)
    assert len(desk.inside) == 20
    desk.end.set()
    await asyncio.gather(*tasks)


async def test_slots_that_were_waited_for_and_cancelled_at_random_all_come_back() -> None:
    drawn = random.Random(3)
    slots = Slots(total=6, reserve=1)
    under_way = most = 0

    async def work(person: int, chat: int) -> None:
        nonlocal under_way, most
        async with slots.enter(person, chat, is_admin=person == 0):
            under_way += 1
            most = max(most, under_way)
            try:
                await asyncio.sleep(drawn.random() / 500)
                if drawn.random() < 0.3:
                    raise ZeroDivisionError
            finally:
                under_way -= 1

    tasks = [asyncio.create_task(work(drawn.randrange(8), drawn.randrange(4))) for _ in range(300)]
    for task in tasks:
        if drawn.random() < 0.3:
            await asyncio.sleep(drawn.random() / 1000)
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert most <= 6
    assert not slots._inside
    assert not slots._waiting
    assert not +slots._held


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 5)), max_size=200),
    st.integers(1, 20),
    st.floats(0.1, 5),
)
def test_nobody_gets_more_than_the_rate_and_nobody_less_for_the_others(
    asked: list[tuple[int, float]], burst: int, per_second: float
) -> None:
    clock = Time()
    allowance = Allowance(Rate(burst=burst, per_second=per_second), clock=clock)
    alone_clock = Time()
    alone = Allowance(Rate(burst=burst, per_second=per_second), clock=alone_clock)
    allowed = 0
    for key, pause in asked:
        clock.now += pause
        alone_clock.now = clock.now
        is_allowed = allowance.take(key)
        if key == 0:
            assert is_allowed == alone.take(0)
            allowed += is_allowed
    assert allowed <= burst + clock.now * per_second + 1e-6
