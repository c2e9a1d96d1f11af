"""The whole loop, shown on the embedded model: `make demo`.

A simulated audience with a taste chats and rates; a run trains an adapter, and the gate tests it;
the version goes live while a reply is being streamed; the audience asks about topics that it never
rated; then a rollback, and a promotion again. The exit code is 0 only if the gate let the version
through and the audience is measurably happier.
"""

import asyncio
import sys
import time
from contextlib import aclosing
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bot.app import Store, make_chat, open_store, opened_engine
from bot.chat import Chat
from bot.cli.worker_process import worker_for
from bot.reports.wording import gate_text, progress_text
from examples.audience import (
    NEW_TOPICS,
    PERSONAS,
    RATED_TOPICS,
    SETTINGS,
    Audience,
    last_turn,
    questions,
)
from examples.pictures import Share, draw_demo
from examples.scratch import scratch_settings
from store.domain import Place, RunStatus, TrainingRun, Turn

PERSONA = PERSONAS["patient"]
RATED = 320
ASKED_AGAIN = 64
SHOWN = 3
PICTURE = Path("demo.png")
STREAMED = "Tell me about the sea, and take your time."


class Demo:
    """The demo: runs the loop in a store and shows it."""

    def __init__(self, store: Store, chat: Chat, console: Console, bar: Progress) -> None:
        self._store = store
        self._chat = chat
        self._console = console
        self._bar = bar
        self._audience = Audience(PERSONA, chat, store.people, store.feedback)

    async def run(self, picture: Path) -> bool:
        """Run the whole story; return whether it ended well."""
        say = self._console.print
        say(f"The audience likes {PERSONA.wants}; one thumb in ten is the wrong one.\n")
        rated = await self._ask("chatting and rating", questions(RATED_TOPICS, RATED), rate=True)
        tally = self._store.statistics.ratings()
        say(f"{len(rated)} replies rated: {tally.up} 👍, {tally.down} 👎")
        fresh = questions(NEW_TOPICS, ASKED_AGAIN, seed=1)
        before = await self._ask("topics it never rated, before", fresh)

        run = await self._train()
        say(f"Run {run.id}: {run.outcome} ({run.seconds:.0f} s)\n")
        adapter = self._store.adapters.of_run(run.id)
        report = self._store.adapters.report(adapter.name) if adapter else None
        if report is not None:
            say(gate_text(report), highlight=False)
        if adapter is None or run.status is not RunStatus.PASSED:
            return False

        streamed = await self._swap(adapter.name)
        say(
            f"\nA reply was being streamed when {adapter.name} went live; it was finished by "
            f"{streamed.adapter or 'the base model'}."
        )
        after = await self._ask("topics it never rated, after", fresh)
        swapped = streamed.adapter is None and {turn.adapter for turn in after} == {adapter.name}
        there = await self._back_and_forward(adapter.name)
        self._compare(before, after)

        share_before, share_after = (self._audience.pleased(each) for each in (before, after))
        draw_demo(
            picture,
            curve=run.metrics.curve,
            shares=[
                Share(name="base model", share=share_before, count=len(before)),
                Share(name=adapter.name, share=share_after, count=len(after)),
            ],
        )
        say(
            f"\nReplies that please, on topics never rated: {share_before:.0%} before, "
            f"{share_after:.0%} after. The curve is in {picture}."
        )
        return swapped and there and share_after > share_before + 0.1

    async def _ask(self, what: str, asked: list[str], *, rate: bool = False) -> list[Turn]:
        task = self._bar.add_task(what, total=len(asked))
        return await self._audience.ask(asked, rate=rate, done=lambda: self._bar.advance(task))

    async def _train(self) -> TrainingRun:
        run, _ = self._store.runs.queue("the demo")
        task = self._bar.add_task("training and the gate", total=100)
        with worker_for(run.id) as worker:
            while not (run := self._store.runs.get(run.id)).status.ended:
                if worker.poll() is not None and not self._store.runs.get(run.id).status.ended:
                    sys.exit("The trainer died; its words are above.")
                done = round(100 * run.progress.share)
                self._bar.update(task, completed=done, description=progress_text(run))
                await asyncio.sleep(0.5)
        self._bar.update(task, completed=100, description="training and the gate")
        return run

    async def _swap(self, name: str) -> Turn:
        """Promote while a reply is being streamed; return the turn of that reply."""
        place = Place(chat_id=-1)
        turn: Turn | None = None
        pieces = 0
        async with aclosing(self._chat.answer(place, 1, STREAMED)) as stream:
            async for piece in stream:
                if isinstance(piece, Turn):
                    turn = piece
                    continue
                pieces += 1
                if pieces == 5:
                    self._promote(name)
        assert turn is not None
        return turn

    def _promote(self, name: str) -> None:
        adapter = self._store.adapters.get(name)
        self._store.adapters.promote(name, base_model=adapter.base_model, reason="the demo")

    async def _back_and_forward(self, name: str) -> bool:
        """Roll back, ask, promote again, ask; return whether each reply used the right version."""
        self._store.adapters.rollback(reason="the demo goes back")
        back = await last_turn(self._chat, Place(chat_id=-2), 1, "What is tea?")
        self._promote(name)
        forward = await last_turn(self._chat, Place(chat_id=-2), 1, "What is tea?")
        self._console.print(
            f"Rolled back, a reply came from {back.adapter or 'the base model'}; "
            f"promoted again, from {forward.adapter}."
        )
        return back.adapter is None and forward.adapter == name

    def _compare(self, before: list[Turn], after: list[Turn]) -> None:
        table = Table("question", "before", "after", show_lines=True)
        for old, new in list(zip(before, after, strict=True))[:SHOWN]:
            table.add_row(old.question, old.completion, new.completion)
        self._console.print(table)


async def show(store: Store, console: Console, picture: Path) -> bool:
    """Run the demo in a store."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    async with opened_engine(store.settings) as engine:
        with Progress(*columns, console=console) as bar:
            return await Demo(store, make_chat(store, engine), console, bar).run(picture)


def main() -> None:
    """Run the demo; exit with 0 if the gate passed and the audience is happier."""
    console = Console(width=110)
    started = time.monotonic()
    picture = PICTURE.absolute()
    with (
        scratch_settings(**SETTINGS, promote="ask", queue_size=1000) as settings,
        open_store(settings) as store,
    ):
        happier = asyncio.run(show(store, console, picture))
    console.print(f"{time.monotonic() - started:.0f} seconds.")
    if not happier:
        sys.exit("The loop did not close: the gate refused the version, or it pleases no more.")


if __name__ == "__main__":
    main()
