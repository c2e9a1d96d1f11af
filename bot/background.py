"""Work beside the conversations: when it ends by itself, so does what it was started for."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from bot.errors import BotError

logger = logging.getLogger(__name__)


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None], *, name: str) -> AsyncIterator[None]:
    """Run endless `work` as a task for the length of the block.

    If it ends before the block does, the block is cancelled. Raises `BotError` then.
    """
    owner = asyncio.current_task()
    assert owner is not None
    task = asyncio.create_task(work, name=name)
    is_over = ended = False

    def on_end(_: "asyncio.Task[None]") -> None:
        nonlocal ended
        if not is_over:
            ended = True
            owner.cancel()

    task.add_done_callback(on_end)
    try:
        yield
    except asyncio.CancelledError:
        if not ended or owner.uncancel() > 0:
            raise
        error = None if task.cancelled() else task.exception()
        logger.error("the %s ended", name, exc_info=error)
        raise BotError(f"the {name} ended: {error or 'for no reason'}") from error
    finally:
        is_over = True
        task.cancel()
        await asyncio.wait((task,))
