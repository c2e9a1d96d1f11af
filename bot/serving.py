"""Serves Telegram with what `bot/app.py` builds, until a signal ends the process."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

from bot.app import Store, TelegramBot, make_health, make_indexer, make_telegram, opened_engine

logger = logging.getLogger(__name__)

WAITING_THREADS = 32
"""Threads for SQL, Chroma and the embedder; most of them wait, so the cores do not bound them."""


async def serve_telegram(store: Store) -> None:
    """Talk in Telegram until SIGTERM or SIGINT.

    The first signal finishes the replies that are being written, the second stops at once. Raises
    `BotError` for a token that Telegram does not know.
    """
    from bot.reports.metrics import Metered  # the terminal does not need it

    settings, stop, main = store.settings, asyncio.Event(), asyncio.current_task()
    assert main is not None
    threads = ThreadPoolExecutor(WAITING_THREADS, thread_name_prefix="ratchet")
    asyncio.get_running_loop().set_default_executor(threads)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop_or_quit, stop, main)
    health = make_health(store)
    listen = settings.monitoring.health_listen
    watched = health.serve(listen) if listen else nullcontext()
    await asyncio.to_thread(store.eraser.resume)  # before anybody writes something new
    logger.info("loading the model %s", settings.engine.model)
    async with (
        watched,
        opened_engine(settings) as engine,
        in_background(make_indexer(store).run(), name="indexer"),
    ):
        telegram = make_telegram(store, Metered(engine, health.metrics))
        health.is_talking = lambda: telegram.is_listening and not stop.is_set()
        await talk(telegram, store, stop)


async def talk(telegram: TelegramBot, store: Store, stop: asyncio.Event) -> None:
    """Talk in Telegram until `stop` is set. Raises `BotError` for a token that is not known."""
    from bot.telegram.listener import serve

    bot, settings = telegram.application.bot, store.settings
    async with (
        in_background(telegram.inbox.keep(bot, alone=store.database.alone), name="inbox"),
        in_background(telegram.news.run(bot), name="news"),
    ):
        await serve(
            telegram.application,
            settings.webhook,
            settings.admission.admins,
            stop,
            finish_seconds=telegram.timing.finish_seconds,
        )


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None], *, name: str) -> AsyncIterator[None]:
    """Run `work` as a task for the length of the block."""
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _stop_or_quit(stop: asyncio.Event, main: "asyncio.Task[None]") -> None:
    if stop.is_set():
        main.cancel()
        return
    logger.info("finishing the replies that are being written; press Ctrl-C again to stop at once")
    stop.set()
