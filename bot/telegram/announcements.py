"""Announcements: admins are told of runs, and messages that show erased words are deleted.

The store is read about once a second; the trainer and other processes write there.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from html import escape

from telegram import Bot, Message
from telegram.constants import ParseMode
from telegram.error import BadRequest, Forbidden, TelegramError

from bot.active_adapter import ActiveAdapter
from bot.reports.wording import gate_text, run_line
from bot.telegram.render import MOST_UNITS, units
from store.adapters import Adapters
from store.domain import GateReport, Sample, TrainingRun
from store.errors import StoreError
from store.runs import Runs

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
EDIT_EVERY = 4
"""Looks between two edits of a progress message: Telegram allows about one a second in a chat."""

FOLLOWED = 20
"""Most progress messages that are kept up to date; older ones are dropped."""

TOLD_RUNS = 100
"""Number of runs for which the admins who were told are remembered."""

BLANKED = "[deleted: these words were erased]"

SAMPLE_CHARS = 300
TABLE_CHARS = 2500


class Announcements:
    """One bot's announcements. `run` is a task that lives as long as the bot."""

    def __init__(
        self,
        *,
        runs: Runs,
        adapters: Adapters,
        active: ActiveAdapter,
        admins: frozenset[int],
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._look_seconds = look_seconds
        self._runs = runs
        self._adapters = adapters
        self._active = active
        self._admins = admins
        self._followed: dict[int, list[Message]] = {}
        self._last_trouble = ""
        self._told: set[tuple[int, int]] = set()

    def follow(self, run_id: int, message: Message) -> None:
        """Show a run's progress in a message until the run has ended."""
        self._followed.setdefault(run_id, []).append(message)
        while sum(map(len, self._followed.values())) > FOLLOWED:
            oldest = next(iter(self._followed))
            self._followed[oldest].pop(0)
            if not self._followed[oldest]:
                del self._followed[oldest]

    async def run(self, bot: Bot) -> None:
        """Call `look` again and again until cancelled."""
        look = 0
        while True:
            try:
                await self.look(bot, progress=look % EDIT_EVERY == 0)
                self._last_trouble = ""
            except (StoreError, TelegramError) as error:
                if str(error) != self._last_trouble:
                    logger.warning("announcements to admins are delayed: %s", error)
                self._last_trouble = str(error)
            except Exception:  # the outermost edge of this task
                logger.exception("announcements failed")
            look += 1
            await asyncio.sleep(self._look_seconds)

    async def look(self, bot: Bot, *, progress: bool = True) -> None:
        """Load a new version, delete messages, show progress and announce ended runs, once."""
        await self._active.prepare(partial(self._tell, bot))
        await self._delete_unwanted(bot)
        if progress:
            for run_id in list(self._followed):
                await self._show_progress(run_id)
        for run in await asyncio.to_thread(self._runs.unannounced):
            await self._announce(bot, run)

    async def _delete_unwanted(self, bot: Bot) -> None:
        """Delete messages that show erased samples; blank those that Telegram cannot delete."""
        for each in await asyncio.to_thread(self._runs.unwanted_messages):
            try:
                await bot.delete_message(each.chat_id, each.message_id)
            except BadRequest:  # too old to be deleted, or deleted already
                with suppress(BadRequest, Forbidden):
                    await bot.edit_message_text(BLANKED, each.chat_id, each.message_id)
            except Forbidden as error:
                logger.info("a message with samples cannot be deleted: %s", error)
            await asyncio.to_thread(self._runs.forget_message, each)

    async def _tell(self, bot: Bot, text: str) -> None:
        """Send every admin a message; the log has it, too."""
        for admin_id in sorted(self._admins):
            with suppress(TelegramError):
                await bot.send_message(admin_id, text)

    async def _show_progress(self, run_id: int) -> None:
        run = await asyncio.to_thread(self._runs.get, run_id)
        for message in self._followed.get(run_id, ()):
            over = run.status.ended or run.cancel_requested
            with suppress(BadRequest, Forbidden):  # not modified, deleted, or the bot is blocked
                markup = None if over else message.reply_markup
                await message.edit_text(run_line(run), reply_markup=markup)
        if run.status.ended:
            self._followed.pop(run_id, None)

    async def _announce(self, bot: Bot, run: TrainingRun) -> None:
        if run.id in self._followed:
            await self._show_progress(run.id)
        adapter = await asyncio.to_thread(self._adapters.of_run, run.id)
        report = await asyncio.to_thread(self._adapters.report, adapter.name) if adapter else None
        samples = await asyncio.to_thread(self._runs.samples, run.id)
        text = announcement(run, report, samples)
        for admin_id in sorted(self._admins):
            if (run.id, admin_id) in self._told:
                continue
            self._told.add((run.id, admin_id))
            try:
                sent = await bot.send_message(admin_id, text, parse_mode=ParseMode.HTML)
                if samples:
                    await asyncio.to_thread(
                        self._runs.record_sample_message, run.id, admin_id, sent.message_id
                    )
            except (BadRequest, Forbidden) as error:
                logger.info("admin %d was not told of run %d: %s", admin_id, run.id, error)
            except BaseException:  # not delivered: the next look sends it again
                self._told.discard((run.id, admin_id))
                raise
        await asyncio.to_thread(self._runs.mark_announced, run.id)
        self._told = {each for each in self._told if each[0] > run.id - TOLD_RUNS}


def gate_table(report: GateReport) -> str:
    """Return a gate report in fixed width, as Telegram's HTML."""
    return f"<pre>{escape(gate_text(report)[:TABLE_CHARS])}</pre>"


def announcement(run: TrainingRun, report: GateReport | None, samples: Sequence[Sample]) -> str:
    """Return a run's outcome, gate report and samples as Telegram's HTML."""
    parts = [escape(run_line(run))]
    if run.metrics.held_back:
        held_back = run.metrics.held_back
        parts.append(f"People whose ratings were held back: {held_back}. See /quarantine.")
    if report is not None:
        parts.append(gate_table(report))
    for each in samples:
        question, before, after = (
            escape(text[:SAMPLE_CHARS]) for text in (each.question, each.before, each.after)
        )
        sample = f"<b>{question}</b>\n<i>before</i> {before}\n<i>after</i> {after}"
        if units("\n\n".join([*parts, sample])) <= MOST_UNITS:
            parts.append(sample)
    return "\n\n".join(parts)
