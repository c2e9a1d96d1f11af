"""The index follows SQL while the bot runs."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.indexer import Indexer
from store.database import Database
from store.documents.documents import Documents
from store.index import ChromaIndex
from tests.fakes import FakeEmbedder

NOTE = b"# Hours\n\nThe harbour opens at nine."


@pytest.fixture
def embedder() -> FakeEmbedder:
    return FakeEmbedder()


@pytest.fixture
def knowledge(sqlite: Database, tmp_path: Path, embedder: FakeEmbedder) -> Iterator[Documents]:
    index = ChromaIndex(path=tmp_path / "chroma", url="", name="chunks")
    knowledge = Documents(sqlite, index, embedder, chunk_chars=240)
    yield knowledge
    knowledge.close()


def found(knowledge: Documents) -> int:
    return len(knowledge.search("when does the harbour open", count=3, floor=0.1))


async def test_what_is_added_is_found_after_a_look(knowledge: Documents) -> None:
    knowledge.add("hours.md", NOTE, added_by=1)

    fine = await Indexer(knowledge).look()

    assert (fine, found(knowledge)) == (True, 1)


async def test_an_index_that_was_thrown_away_is_made_anew(
    knowledge: Documents, tmp_path: Path
) -> None:
    knowledge.add("hours.md", NOTE, added_by=1)
    await Indexer(knowledge).look()
    knowledge.close()
    shutil.rmtree(tmp_path / "chroma")

    await Indexer(knowledge).look()

    assert found(knowledge) == 1


async def test_nothing_is_embedded_twice(knowledge: Documents, embedder: FakeEmbedder) -> None:
    knowledge.add("hours.md", NOTE, added_by=1)
    await Indexer(knowledge).look()
    embedder.embedded.clear()

    await Indexer(knowledge).look()

    assert embedder.embedded == []


async def test_an_index_in_use_elsewhere_is_said_once(
    knowledge: Documents, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    knowledge.add("hours.md", NOTE, added_by=1)
    other = ChromaIndex(path=tmp_path / "chroma", url="", name="chunks")
    other.open()
    indexer = Indexer(knowledge)

    looks = [await indexer.look(), await indexer.look()]
    other.close()

    assert looks == [False, False]
    assert caplog.text.count("is open in another process") == 1
    assert await indexer.look()


async def test_what_nobody_foresaw_does_not_end_the_indexer(
    knowledge: Documents, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the embedder ran out of memory")

    knowledge.add("hours.md", NOTE, added_by=1)
    with monkeypatch.context() as broken:
        broken.setattr(FakeEmbedder, "embed", fail)
        assert not await Indexer(knowledge).look()

    assert "ran out of memory" in caplog.text
    assert await Indexer(knowledge).look()
