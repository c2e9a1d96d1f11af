"""Vectors that a process keeps never change what is recalled: SQL decides, each time."""

import random

import pytest

from store import memory_vectors
from store.database import Database
from store.domain import Place, Rating
from store.erasure import Eraser
from store.memories import Memories
from store.people import People
from tests.fakes import FakeEmbedder
from tests.store.talk import ADA, BOB, CLEO, correct, meet, rate, talk

PLACES = [Place(chat_id=number) for number in (5, 6, 7)]
WORDS = ["when", "does", "the", "old", "new", "harbour", "open", "close", "today", "on", "sunday"]


def recalled(memories: Memories, question: str) -> list[object]:
    return [
        memories.recall(question, chat_id=place.chat_id, conversation_id=10**6, count=3, floor=0.3)
        for place in PLACES
    ]


@pytest.mark.parametrize("seed", range(4))
def test_a_process_that_keeps_vectors_recalls_what_a_new_one_does(
    database: Database, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(memory_vectors, "MOST_KEPT", 12)
    draw = random.Random(seed)
    keeping, turns = Memories(database, FakeEmbedder()), [0]
    meet(database, ADA, BOB, CLEO)

    def question() -> str:
        return " ".join(draw.sample(WORDS, 5))

    def say() -> None:
        turns.append(
            talk(
                database,
                question(),
                f"reply {len(turns)}",
                person_id=draw.choice((ADA, BOB)),
                place=draw.choice(PLACES),
            )
        )
        rate(database, turns[-1], Rating.UP, draw.choice((ADA, BOB, CLEO)))

    def change_a_mind() -> None:
        rate(database, turns[-1], draw.choice((Rating.UP, Rating.DOWN, None)), BOB)

    def approve() -> None:
        for each in keeping.proposals(limit=2):
            keeping.decide(each.turn_id, each.sha256, CLEO, approved=draw.random() < 0.8)

    say()
    most = 0
    for _ in range(25):
        step = draw.choice(
            (
                say,
                say,
                change_a_mind,
                approve,
                lambda: correct(database, turns[-1], f"no, {draw.random()}", BOB),
                lambda: People(database).opt_out(ADA, draw.random() < 0.5),
            )
        )
        step()
        asked = question()
        found = recalled(keeping, asked)
        assert found == recalled(Memories(database, FakeEmbedder()), asked)
        most = max(most, sum(map(bool, found)))
    assert most, "nothing was ever recalled"

    Eraser(database).erase_person(ADA)
    assert recalled(keeping, asked) == recalled(Memories(database, FakeEmbedder()), asked)


def test_vectors_are_kept_for_the_chats_that_asked_last(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_vectors, "MOST_KEPT", 2)
    vectors = memory_vectors.MemoryVectors(FakeEmbedder().name)
    memories = Memories(sqlite, FakeEmbedder())
    for place in PLACES:
        rate(sqlite, talk(sqlite, "when", "now", place=place), Rating.UP)
    memories.embed_pending()

    with sqlite.reading() as session:
        for place in PLACES:
            assert vectors.comparable(session, place.chat_id)

    assert sum(len(each.ids) for each in vectors._kept.values()) == 2
