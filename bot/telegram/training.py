"""What admins do about learning, in private: train, look at runs and versions, forward and back.

Whatever changes what people are answered with is asked back first, with buttons.
"""

import asyncio
import re
from collections.abc import Callable

from telegram import InlineKeyboardButton, InlineKeyboardMarkup, Message, Update
from telegram.ext import ContextTypes

from bot.errors import BotError
from bot.reports.stats import draw_statistics, read_statistics
from bot.reports.wording import activation_line, adapter_line, gate_text, run_line
from bot.telegram.announcements import Announcements
from bot.telegram.keyboard import acknowledge, show
from store.adapters import Adapters
from store.database import Database
from store.errors import StoreError
from store.runs import Runs

LEARNING_PATTERN = re.compile(
    r"^(?:(?P<on>cancel):(?P<id>\d{1,18})"
    r"|(?P<do>promote|force|rollback):(?P<name>\S{1,50})|(?P<no>no):)$"
)
MOST_CALLBACK_BYTES = 64
"""Telegram's own limit."""

SHOWN = 10


class TrainingHandlers:
    """`/train`, `/runs`, `/adapters`, `/promote`, `/rollback`, `/stats`."""

    def __init__(
        self,
        *,
        database: Database,
        runs: Runs,
        adapters: Adapters,
        news: Announcements,
        base_model: str,
    ) -> None:
        self._database = database
        self._runs = runs
        self._adapters = adapters
        self._news = news
        self._base_model = base_model

    async def on_train(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/train`: queue a run; its message shows how far it is."""
        message, admin_id = _asked(update)
        run, new = await asyncio.to_thread(
            self._runs.queue, "an admin asked for it", requested_by=admin_id
        )
        text = run_line(run) if new else f"There is a run already.\n{run_line(run)}"
        shown = await message.reply_text(
            text, reply_markup=_buttons(("✖ Cancel", f"cancel:{run.id}"))
        )
        self._news.follow(run.id, shown)

    async def on_runs(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/runs`: the last ones."""
        message, _ = _asked(update)
        runs = await asyncio.to_thread(self._runs.recent, SHOWN)
        await message.reply_text("\n".join(map(run_line, runs)) or "There were none yet: /train.")

    async def on_adapters(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/adapters`: the versions; `/adapters NAME`: what the gate said of one."""
        message, _ = _asked(update)
        if context.args:
            await message.reply_text(await asyncio.to_thread(self._about, context.args[0]))
            return
        versions = await asyncio.to_thread(self._adapters.all)
        changes = await asyncio.to_thread(self._adapters.history, 3)
        lines = [adapter_line(each) for each in versions[-SHOWN:]]
        lines += ["", *map(activation_line, changes)] if changes else []
        hint = "/adapters NAME shows what the gate said of one."
        none = "There are none yet: the base model answers. /train makes one."
        await message.reply_text("\n".join([*lines, "", hint]) if lines else none)

    async def on_promote(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/promote NAME`, and `/promote NAME --force` for one that was rejected."""
        message, _ = _asked(update)
        arguments = [each.replace("—", "--") for each in context.args or ()]
        names = [each for each in arguments if not each.startswith("--")]
        action = "force" if "--force" in arguments else "promote"
        pressed = f"{action}:{names[0]}" if len(names) == 1 else ""
        fits = len(pressed.encode()) <= MOST_CALLBACK_BYTES
        if not (LEARNING_PATTERN.match(pressed) and fits):
            await message.reply_text("Give me a name, as in /promote a3-1f2e3d4c; /adapters lists.")
            return
        try:
            await asyncio.to_thread(self._adapters.get, names[0])
        except StoreError as error:
            await message.reply_text(str(error))
            return
        await message.reply_text(
            f"Answer everybody with {names[0]} from now on?",
            reply_markup=_buttons(("Yes", pressed), ("No", "no:")),
        )

    async def on_rollback(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/rollback`: back to the version before, once confirmed."""
        message, _ = _asked(update)
        active = await asyncio.to_thread(self._adapters.active)
        if active is None:
            await message.reply_text("There is nothing to roll back: the base model answers.")
            return
        await message.reply_text(
            f"Stop using {active.name} and go back to what was before it?",
            reply_markup=_buttons(("Yes", f"rollback:{active.name}"), ("No", "no:")),
        )

    async def on_stats(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """`/stats`: a picture."""
        message, _ = _asked(update)
        statistics = await asyncio.to_thread(read_statistics, self._database)
        try:
            picture = await asyncio.to_thread(draw_statistics, statistics)
        except BotError as error:
            await message.reply_text(f"{statistics.caption}\n\n{error}")
            return
        await message.reply_photo(picture, caption=statistics.caption)

    async def on_button(self, update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
        """A button under one of these messages."""
        query = update.callback_query
        assert query is not None
        pressed = LEARNING_PATTERN.match(query.data or "")
        assert pressed is not None, "the application asks for this pattern"
        action = pressed["on"] or pressed["do"] or pressed["no"]
        what = pressed["id"] or pressed["name"] or ""
        try:
            done = await asyncio.to_thread(self._do, action, what, query.from_user.id)
        except StoreError as error:
            done = str(error)
        await acknowledge(query)
        if action == "cancel" and isinstance(query.message, Message):
            done = f"{query.message.text or ''}\n\n{done}".strip()[:4000]
        await show(query, done)

    def _do(self, action: str, what: str, admin_id: int) -> str:
        actions: dict[str, Callable[[], str]] = {
            "cancel": lambda: self._cancel(int(what)),
            "promote": lambda: self._promote(what, admin_id, force=False),
            "force": lambda: self._promote(what, admin_id, force=True),
            "rollback": lambda: self._rollback(what, admin_id),
            "no": lambda: "Nothing has changed.",
        }
        return actions[action]()

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
        try:
            adapter = self._adapters.get(name)
        except StoreError as error:
            return str(error)[:1000]
        report = self._adapters.report(name)
        said = gate_text(report) if report else "The gate has not looked at it."
        return f"{adapter_line(adapter)}\n\n{said}"


def _asked(update: Update) -> tuple[Message, int]:
    assert update.effective_message is not None
    assert update.effective_user is not None
    return update.effective_message, update.effective_user.id


def _buttons(*labels: tuple[str, str]) -> InlineKeyboardMarkup:
    row = [InlineKeyboardButton(text, callback_data=data) for text, data in labels]
    return InlineKeyboardMarkup([row])
