"""Answers from documents: share of passages found, and of replies that state the fact.

Asks the written questions about `examples/handbook` through `bot.chat`, once with the handbook
and once with an empty knowledge base, with the default settings.

    python -m benchmarks.retrieval
"""

import asyncio
import json
import re
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from bot.app import Store, open_chat, open_store
from bot.chat import Chat
from bot.cli.ingest import ingest
from examples.scratch import scratch_settings
from store.domain import HEADING_SEPARATOR, Passage, Place, Turn
from store.settings import Settings

HERE = Path(__file__).parent
HANDBOOK = HERE.parent / "examples" / "handbook"
QUESTIONS = HERE / "retrieval_questions.jsonl"
MEASURED = HERE / "measured" / "retrieval.json"
PERSON_ID = 1
TOP = 3

_DOES_NOT_KNOW = re.compile(
    r"do(es)? ?n[o']t (know|say|mention|state|specify|provide|contain)|not (mentioned|specified|"
    r"stated|provided|in the text)|no (information|mention)|unknown",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question and the place of its answer in the handbook; None where there is no answer."""

    question: str
    document: str | None
    section: str | None
    answers: tuple[str, ...]

    def answered_by(self, text: str) -> bool:
        """Return whether a text holds one of the accepted answers as whole words."""
        return any(
            re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE)
            for answer in self.answers
        )

    def found_in(self, passages: Sequence[Passage], titles: dict[str, str]) -> bool:
        """Return whether a passage is of the right section and holds the fact."""
        assert self.document is not None
        return any(
            each.title == titles[self.document]
            and each.section.rpartition(HEADING_SEPARATOR)[2] == self.section
            and self.answered_by(each.text)
            for each in passages
        )


def load_questions() -> list[Question]:
    """Read the written questions."""
    with QUESTIONS.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [Question(**{**row, "answers": tuple(row["answers"])}) for row in rows]


async def ask(chat: Chat, questions: Sequence[Question]) -> list[Turn]:
    """Ask every question in a conversation of its own."""
    turns = []
    for number, question in enumerate(questions, 1):
        await chat.start_new(place := Place(chat_id=number))
        async with aclosing(chat.answer(place, PERSON_ID, question.question)) as all_:
            *_, turn = [piece async for piece in all_]
        assert isinstance(turn, Turn)
        turns.append(turn)
        print(f"\r{number}/{len(questions)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return turns


async def measure(settings: Settings) -> dict[str, object]:
    """Measure without and with the handbook, in a new store."""
    questions = load_questions()
    known = [question for question in questions if question.document is not None]
    unknown = [question for question in questions if question.document is None]
    with open_store(settings) as store:
        store.people.see(PERSON_ID, "benchmark")
        async with open_chat(store) as chat:
            without = await ask(chat, known)
            await asyncio.to_thread(_ingest, store)
            titles = {each.name: each.title for each in store.knowledge.documents()}
            found = [
                question.found_in(
                    store.knowledge.search(
                        question.question, count=TOP, floor=settings.retrieval.passage_floor
                    ),
                    titles,
                )
                for question in known
            ]
            started = time.monotonic()
            turns = await ask(chat, known)
            seconds = time.monotonic() - started
            silent = await ask(chat, unknown)
    replies = [
        {
            "question": question.question,
            "found": hit,
            "right": question.answered_by(turn.completion),
        }
        | {"reply": turn.completion}
        for question, turn, hit in zip(known, turns, found, strict=True)
    ]
    return {
        "model": turns[0].model,
        "sampling": {**turns[0].sampling, "seed": "random"},
        "questions": len(known),
        "right_passage_in_top_3": _share(found),
        "fact_in_reply": _share([bool(reply["right"]) for reply in replies]),
        "fact_in_reply_without_documents": _share(
            [
                question.answered_by(turn.completion)
                for question, turn in zip(known, without, strict=True)
            ]
        ),
        "unanswerable_questions": len(unknown),
        "says_it_does_not_know": _share(
            [bool(_DOES_NOT_KNOW.search(turn.completion)) for turn in silent]
        ),
        "seconds_per_reply": round(seconds / len(known), 2),
        "replies": replies,
        "unanswerable": [[q.question, t.completion] for q, t in zip(unknown, silent, strict=True)],
    }


def _ingest(store: Store) -> None:
    ingest(store.knowledge, [HANDBOOK], lambda result: None)
    store.knowledge.index_pending()


def _share(hits: Sequence[bool]) -> float:
    return round(sum(hits) / len(hits), 3)


def main() -> None:
    """Measure, print a table, write `measured/retrieval.json`."""
    with scratch_settings() as settings:
        result = asyncio.run(measure(settings))
    for name, value in result.items():
        if not isinstance(value, list):
            print(f"{name:<34} {value}")
    MEASURED.parent.mkdir(exist_ok=True)
    MEASURED.write_text(json.dumps(result, ensure_ascii=False, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
