"""Serves Telegram with what `bot/app.py` builds, until a signal ends the process."""

import asyncio
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

from bot.app import Store, TelegramBot, make_health, make_indexer, make_telegram, opened_engine
from bot.background import in_background

logger = logging.getLogger(__name__)

WAITING_THREADS = 32
"""Threads for SQL, Chroma and the embedder; most of them wait, so the cores do not bound them."""


ALLOWLIST = (
    "only people whom an admin lets in are answered; RATCHET_ACCESS=open lets everybody in%s"
)
NO_ADMINS = ". There are no admins yet: set RATCHET_ADMINS to your Telegram id"


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
    if settings.admission.access == "allowlist":
        logger.info(ALLOWLIST, "" if settings.admission.admins else NO_ADMINS)
    logger.info("loading the model %s", settings.engine.model)
    async with (
        watched,
        opened_engine(settings) as engine,
        in_background(make_indexer(store).run(), name="indexer"),
    ):
        telegram = make_telegram(store, Metered(engine, health.metrics))
        health.watch(telegram.vital_signs)
        await talk(telegram, stop)


async def talk(telegram: TelegramBot, stop: asyncio.Event) -> None:
    """Talk in Telegram until `stop` is set.

    Raises `BotError` for a token that is not known, and if a task beside it ends by itself.
    """
    async with in_background(telegram.news.run(telegram.application.bot), name="news"):
        await telegram.listener.serve(stop)


def _stop_or_quit(stop: asyncio.Event, main: "asyncio.Task[None]") -> None:
    if stop.is_set():
        main.cancel()
        return
    logger.info("finishing the replies that are being written; press Ctrl-C again to stop at once")
    stop.set()
