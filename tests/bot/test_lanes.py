"""Order within a place."""

import asyncio

import pytest

from bot.errors import ConversationBusy
from bot.lanes import Lanes
from store.domain import Place

HERE, THERE = Place(chat_id=1), Place(chat_id=2)


async def test_one_place_is_served_in_the_order_of_arrival() -> None:
    lanes, order = Lanes(), list[int]()

    async def work(number: int) -> None:
        async with lanes.enter(HERE):
            await asyncio.sleep(0.01 * (5 - number))
            order.append(number)

    await asyncio.gather(*(work(number) for number in range(5)))

    assert order == [0, 1, 2, 3, 4]


async def test_places_do_not_wait_for_each_other() -> None:
    lanes = Lanes()

    async with lanes.enter(HERE), asyncio.timeout(1), lanes.enter(THERE):
        served = True

    assert served


async def test_topics_of_one_chat_do_not_wait_for_each_other() -> None:
    lanes = Lanes()

    async with lanes.enter(HERE), asyncio.timeout(1), lanes.enter(Place(chat_id=1, thread_id=7)):
        served = True

    assert served


async def test_a_full_lane_says_how_many_are_in_it() -> None:
    lanes, release = Lanes(length=3), asyncio.Event()

    async def work() -> None:
        async with lanes.enter(HERE):
            await release.wait()

    working = [asyncio.create_task(work()) for _ in range(3)]
    await asyncio.sleep(0)

    with pytest.raises(ConversationBusy, match="3 earlier"):
        async with lanes.enter(HERE):
            pass
    release.set()
    await asyncio.gather(*working)


async def test_who_gives_up_waiting_frees_the_place_in_line() -> None:
    lanes = Lanes(length=2)

    async def work() -> None:
        async with lanes.enter(HERE):
            pass

    async with lanes.enter(HERE):
        waiting = asyncio.create_task(work())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        again = asyncio.create_task(work())
        await asyncio.sleep(0)
    async with asyncio.timeout(1):
        await again

    assert again.exception() is None
