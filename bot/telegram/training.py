"""Training commands of admins, in private: train, look at runs and versions, promote, roll back.

A change of the active version must be confirmed with a button first.
"""

import asyncio
from html import escape

from telegram import InlineKeyboardButton, InlineKeyboardMarkup, Message, Update
from telegram.constants import ParseMode
from telegram.ext import ContextTypes

from bot.errors import BotError
from bot.reports.stats import draw_statistics, read_statistics
from bot.reports.wording import activation_line, adapter_line, run_line
from bot.telegram.addressed import message_and_person
from bot.telegram.announcements import Announcements, gate_table
from bot.telegram.buttons import (
    CancelButton,
    NoButton,
    TrainingButton,
    VersionAction,
    VersionButton,
    parse_training,
)
from bot.telegram.keyboard import acknowledge, show
from store.adapters import Adapters
from store.errors import StoreError
from store.runs import Runs
from store.statistics import Statistics

SHOWN = 10


class TrainingHandlers:
    """The handlers of `/train`, `/runs`, `/adapters`, `/promote`, `/rollback` and `/stats`."""

    def __init__(
        self,
        *,
        statistics: Statistics,
        runs: Runs,
        adapters: Adapters,
        news: Announcements,
        base_model: str,
    ) -> None:
        self._statistics = statistics
        self._runs = runs
        self._adapters = adapters
        self._news = news
        self._base_model = base_model

    async def on_train(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Handle `/train`: queue a run, and show its progress in a message."""
        message, admin_id = message_and_person(update)
        run, new = await asyncio.to_thread(
            self._runs.queue, "an admin asked for it", requested_by=admin_id
        )
        text = run_line(run) if new else f"There is a run already.\n{run_line(run)}"
        shown = await message.reply_text(
            text, reply_markup=_buttons(("✖ Cancel", CancelButton(run_id=run.id).data))
        )
        self._news.follow(run.id, shown)

    async def on_runs(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Handle `/runs`: list the last runs."""
        message, _ = message_and_person(update)
        runs = await asyncio.to_thread(self._runs.recent, SHOWN)
        await message.reply_text(
            "\n".join(map(run_line, runs)) or "There are no runs yet. /train starts one."
        )

    async def on_adapters(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Handle `/adapters`: list the versions, or show the gate's report on one."""
        message, _ = message_and_person(update)
        if context.args:
            about = await asyncio.to_thread(self._about, context.args[0])
            await message.reply_text(about, parse_mode=ParseMode.HTML)
            return
        versions = await asyncio.to_thread(self._adapters.all)
        changes = await asyncio.to_thread(self._adapters.history, 3)
        lines = [adapter_line(each) for each in versions[-SHOWN:]]
        lines += ["", *map(activation_line, changes)] if changes else []
        hint = "/adapters NAME shows the gate's report on a version."
        none = "There are no versions yet: the base model answers. /train makes one."
        await message.reply_text("\n".join([*lines, "", hint]) if lines else none)

    async def on_promote(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Handle `/promote NAME`; with `--force`, also for a version that was rejected."""
        message, _ = message_and_person(update)
        arguments = [each.replace("—", "--") for each in context.args or ()]
        names = [each for each in arguments if not each.startswith("--")]
        action = VersionAction.FORCE if "--force" in arguments else VersionAction.PROMOTE
        button = VersionButton(action=action, name=names[0]) if len(names) == 1 else None
        if button is None or VersionButton.parse(button.data) is None:
            await message.reply_text(
                "Please name one version, as in /promote a3-1f2e3d4c. /adapters lists them."
            )
            return
        try:
            await asyncio.to_thread(self._adapters.get, names[0])
        except StoreError as error:
            await message.reply_text(str(error))
            return
        await message.reply_text(
            f"Answer everybody with {names[0]} from now on?",
            reply_markup=_buttons(("Yes", button.data), ("No", NoButton().data)),
        )

    async def on_rollback(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Handle `/rollback`: go back to the version before, once confirmed."""
        message, _ = message_and_person(update)
        active = await asyncio.to_thread(self._adapters.active)
        if active is None:
            await message.reply_text("There is nothing to roll back: the base model answers.")
            return
        back = VersionButton(action=VersionAction.ROLLBACK, name=active.name)
        await message.reply_text(
            f"Stop using {active.name} and go back to what was before it?",
            reply_markup=_buttons(("Yes", back.data), ("No", NoButton().data)),
        )

    async def on_stats(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Handle `/stats`: send a picture, or only its caption if it cannot be drawn."""
        message, _ = message_and_person(update)
        statistics = await asyncio.to_thread(read_statistics, self._statistics, self._runs)
        try:
            picture = await asyncio.to_thread(draw_statistics, statistics)
        except BotError as error:
            await message.reply_text(f"{statistics.caption}\n\n{error}")
            return
        await message.reply_photo(picture, caption=statistics.caption)

    async def on_button(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """Handle a tap on a button under one of these messages."""
        query = update.callback_query
        assert query is not None
        button = parse_training(query.data)
        assert button is not None, "the application asks for these kinds of buttons"
        try:
            done = await asyncio.to_thread(self._do, button, query.from_user.id)
        except StoreError as error:
            done = str(error)
        await acknowledge(query)
        if isinstance(button, CancelButton) and isinstance(query.message, Message):
            done = f"{query.message.text or ''}\n\n{done}".strip()[:4000]
        await show(query, done)

    def _do(self, button: TrainingButton, admin_id: int) -> str:
        match button:
            case CancelButton(run_id=run_id):
                return self._cancel(run_id)
            case VersionButton(action=VersionAction.ROLLBACK, name=name):
                return self._rollback(name, admin_id)
            case VersionButton(action=action, name=name):
                return self._promote(name, admin_id, force=action is VersionAction.FORCE)
            case NoButton():
                return "Nothing has changed."

    def _cancel(self, run_id: int) -> str:
        run = self._runs.cancel(run_id)
        return run_line(run) if run.status.ended else f"Run {run_id} is being stopped."

    def _promote(self, name: str, admin_id: int, *, force: bool) -> str:
        reason = "an admin promoted it" + (", forced" if force else "")
        self._adapters.promote(
            name, base_model=self._base_model, reason=reason, person_id=admin_id, force=force
        )
        return f"{name} answers from now on."

    def _rollback(self, name: str, admin_id: int) -> str:
        before = self._adapters.rollback(
            reason="an admin rolled back", person_id=admin_id, expected=name
        )
        return f"{before.name} answers again." if before else "The base model answers again."

    def _about(self, name: str) -> str:
        """Return a version and the gate's report on it as Telegram's HTML."""
        try:
            adapter = self._adapters.get(name)
        except StoreError as error:
            return escape(str(error)[:1000])
        report = self._adapters.report(name)
        said = gate_table(report) if report else "The gate has not checked it."
        return f"{escape(adapter_line(adapter))}\n\n{said}"


def _buttons(*labels: tuple[str, str]) -> InlineKeyboardMarkup:
    row = [InlineKeyboardButton(text, callback_data=data) for text, data in labels]
    return InlineKeyboardMarkup([row])
