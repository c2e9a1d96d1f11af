"""Gets the active version ready before somebody is answered with it, and withdraws a broken one."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from bot.engine.base import Engine
from bot.engine.errors import AdapterRefused, AdapterUnusable, EngineError
from store.adapters import Adapters
from store.errors import AdapterNotFit, NothingToRollBack

logger = logging.getLogger(__name__)

REASON_CHARS = 300

Tell = Callable[[str], Awaitable[None]]


class ActiveAdapter:
    """Loads the active version into an engine."""

    def __init__(self, *, adapters: Adapters, engine: Engine) -> None:
        self._adapters = adapters
        self._engine = engine
        self._refused = ""

    async def prepare(self, tell: Tell) -> None:
        """Load the active version, unless it is loaded; `tell` is called with bad news, once.

        A version that can never be loaded is withdrawn, and the one before it answers.
        """
        active = await asyncio.to_thread(self._adapters.active)
        if active is None or active.name == self._refused:
            return
        try:
            await self._engine.load_adapter(active)
        except AdapterUnusable as error:
            await self._withdraw(active.name, str(error)[:REASON_CHARS], tell)
        except AdapterRefused as error:
            self._refused = active.name  # replies come from the version that answered before
            logger.error("%s is active and cannot be used: %s", active.name, error)
            reason = str(error)[:REASON_CHARS]
            await tell(f"⚠️ {active.name} is active and cannot be used: {reason}.")
        except EngineError as error:  # it may pass: the next call tries again
            logger.debug("%s is not ready yet: %s", active.name, error)
        else:
            merged = active.name not in self._engine.unmerged
            if active.notes.merged is not merged:
                await asyncio.to_thread(self._adapters.note_merged, active.name, merged)

    async def _withdraw(self, name: str, reason: str, tell: Tell) -> None:
        try:
            before = await asyncio.to_thread(self._adapters.withdraw, name, reason=reason)
        except (NothingToRollBack, AdapterNotFit) as error:  # somebody was faster
            logger.info("%s is not withdrawn: %s", name, error)
            return
        logger.error("%s was active and cannot be used: %s", name, reason)
        now = f"{before.name} answers" if before else "The base model answers"
        await tell(f"⛔ {name} was taken out of use: {reason}. {now}.")
