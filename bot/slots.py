"""Slots: how much is worked on at the same time, with a share for each person and each chat.

Invariant: nobody holds a slot while waiting for another scarce thing. Whoever is about to wait for
the model or for Telegram leaves it first (`leave_slot`).
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

SLOTS = 24
"""Slots of a process; there are a few more threads than that (`bot.serving.WAITING_THREADS`)."""

RESERVE = 4
"""Slots that only admins may take."""

PERSONS_SHARE = 4
CHATS_SHARE = 8
"""Slots that one person, and one chat, may hold at the same time."""


@dataclass(eq=False, kw_only=True)
class _Slot:
    keys: tuple[Hashable, Hashable]
    is_admin: bool
    entered: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Slots:
    """The slots of one process."""

    def __init__(self, *, total: int = SLOTS, reserve: int = RESERVE) -> None:
        self._total = total
        self._reserve = reserve
        self._waiting: dict[_Slot, None] = {}  # in the order in which they came
        self._inside: set[_Slot] = set()
        self._held: Counter[Hashable] = Counter()

    @asynccontextmanager
    async def enter(
        self, person_id: int, chat_id: int, *, is_admin: bool = False
    ) -> AsyncIterator[None]:
        """Wait for a slot, and hold it until the block ends or calls `leave_slot`."""
        slot = _Slot(keys=(("person", person_id), ("chat", chat_id)), is_admin=is_admin)
        token = _HELD.set((self, slot))
        try:
            self._waiting[slot] = None
            self._let_in()
            await slot.entered
            yield
        finally:
            _HELD.reset(token)
            self._leave(slot)

    def _leave(self, slot: _Slot) -> None:
        self._waiting.pop(slot, None)
        if slot in self._inside:
            self._inside.discard(slot)
            self._held.subtract(slot.keys)
            self._held += Counter()  # drops the zeros
            self._let_in()

    def _let_in(self) -> None:
        for slot in list(self._waiting):
            free = self._total - len(self._inside)
            if free <= 0:
                return
            if slot.is_admin or (free > self._reserve and self._has_share(slot)):
                del self._waiting[slot]
                self._inside.add(slot)
                self._held.update(slot.keys)
                if not slot.entered.done():  # done if it was cancelled
                    slot.entered.set_result(None)

    def _has_share(self, slot: _Slot) -> bool:
        person, chat = slot.keys
        return self._held[person] < PERSONS_SHARE and self._held[chat] < CHATS_SHARE


_HELD: ContextVar[tuple[Slots, _Slot] | None] = ContextVar("slot", default=None)


def leave_slot() -> None:
    """Leave the slot that the current work holds, if any; the work goes on without one."""
    held = _HELD.get()
    if held is not None:
        slots, slot = held
        slots._leave(slot)
