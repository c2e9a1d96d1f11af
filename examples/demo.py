"""The main job, shown on the embedded model: `make demo`.

Asks questions that nobody can answer without the handbook, reads the handbook, asks again, rates
the replies, and prints what is kept of it all. Ends with exit code 0 only if the handbook helped.
"""

import asyncio
import sys
import time
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.retrieval import Question, load_questions
from benchmarks.scratch import scratch_settings
from bot.app import Store, open_chat, open_store
from bot.chat import Chat
from bot.ingest import ingest
from store.domain import Place, Rating, RatingSource, Turn

HANDBOOK = Path(__file__).parent / "handbook"
PERSON_ID = 1
ASKED = (
    "How much is the deposit for the tile saw?",
    "What is the pass mark for the machine permit test?",
    "Which form do I use to report a damaged tool?",
    "What is the deepest cut allowed on the table saw?",
    "How many tools were washed into the harbour by the great storm?",
)
NEEDED = 3
"""Questions of these five that the embedded model, small as it is, has to get right."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A question with its reply, and whether the reply holds the fact."""

    question: Question
    turn: Turn

    @property
    def right(self) -> bool:
        """Whether the reply holds the fact."""
        return self.question.answered_by(self.turn.completion)


class Demo:
    """Talks to a chat and shows what happens."""

    def __init__(self, store: Store, chat: Chat, console: Console) -> None:
        self._store = store
        self._chat = chat
        self._console = console

    async def run(self) -> bool:
        """The whole story; whether it ended well."""
        written = {question.question: question for question in load_questions()}
        questions = [written[text] for text in ASKED]
        self._store.people.see(PERSON_ID, "visitor")

        self._console.rule("Before it has read anything")
        before = [await self._ask(question, number) for number, question in enumerate(questions)]
        self._console.rule("It reads the handbook")
        await asyncio.to_thread(self._read_handbook)
        self._console.rule("The same questions again")
        after = [await self._ask(question, number) for number, question in enumerate(questions)]
        self._console.rule("What is kept")
        for answered in (*before, *after):
            self._rate(answered)
        self._show_store(before, after)

        right_before, right_after = (sum(each.right for each in part) for part in (before, after))
        self._console.print(
            f"\nRight before: {right_before} of {len(ASKED)}; after: {right_after} of {len(ASKED)}."
        )
        return right_after >= NEEDED and right_after > right_before

    async def _ask(self, question: Question, number: int) -> Answered:
        place = Place(chat_id=number + 1)
        await self._chat.start_new(place)
        self._console.print(f"\n[bold]{question.question}[/bold]")
        turn: Turn | None = None
        async with aclosing(self._chat.answer(place, PERSON_ID, question.question)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Turn):
                    turn = piece
                else:
                    self._console.print(piece, end="", highlight=False, markup=False)
        assert turn is not None
        self._console.print()
        for passage in turn.passages:
            self._console.print(f"  📎 {passage.source} ({passage.score:.2f})", style="dim")
        return Answered(question=question, turn=turn)

    def _read_handbook(self) -> None:
        started = time.monotonic()
        results = ingest(self._store.knowledge, [HANDBOOK], lambda result: None)
        self._store.knowledge.index_pending(
            lambda document: self._console.print(
                f"  {document.title} ({document.chunks} passages)", style="dim"
            )
        )
        seconds = time.monotonic() - started
        self._console.print(f"{len(results)} documents in {seconds:.1f} s")

    def _rate(self, answered: Answered) -> None:
        rating = Rating.UP if answered.right else Rating.DOWN
        self._store.feedback.rate(answered.turn.id, PERSON_ID, rating, RatingSource.TERMINAL)
        if not answered.right:
            better = f"It is {answered.question.answers[0]}."
            self._store.feedback.correct(answered.turn.id, PERSON_ID, better)

    def _show_store(self, before: list[Answered], after: list[Answered]) -> None:
        table = Table("turn", "question", "sources", "tokens", "rating", "correction", box=None)
        for answered in (*before, *after):
            turn = answered.turn
            tally = self._store.feedback.tally(turn.id)
            corrections = self._store.feedback.corrections(turn.id)
            table.add_row(
                str(turn.id),
                turn.question,
                str(len(turn.passages)),
                f"{turn.prompt_tokens}+{turn.completion_tokens}",
                "👍" if tally.up else "👎",
                corrections[-1].text if corrections else "",
            )
        self._console.print(table)
        for name, value in self._store.status.read().rows():
            self._console.print(f"{name.replace('_', ' '):<18} {value}", highlight=False)


async def show(store: Store, console: Console) -> bool:
    """Run the demo in a store."""
    async with open_chat(store) as chat:
        return await Demo(store, chat, console).run()


def main() -> None:
    """Exit code 0 if the handbook helped."""
    console = Console(width=110)
    started = time.monotonic()
    with scratch_settings(temperature=0) as settings, open_store(settings) as store:
        helped = asyncio.run(show(store, console))
    console.print(f"{time.monotonic() - started:.0f} seconds.")
    if not helped:
        sys.exit("The handbook did not help: that should not happen.")


if __name__ == "__main__":
    main()
