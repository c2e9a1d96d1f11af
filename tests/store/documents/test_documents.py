"""Documents in SQL, vectors in a real Chroma: what is added is found, what is gone is not."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from store.database import Database
from store.documents.documents import Documents
from store.domain import AddOutcome, Passage
from store.embedder import Vector
from store.errors import DocumentNotFound, IndexUnavailable, UnreadableDocument
from store.index import ChromaIndex
from tests.fakes import Clock, FakeEmbedder
from tests.store.talk import ADA

TEA = b"# Tea\n\nGreen tea is steeped for two minutes.\n\n## Black\n\nBlack tea takes four.\n"
LEAVE = b"Employees have thirty days of holiday a year."


@pytest.fixture
def index(tmp_path: Path) -> Iterator[ChromaIndex]:
    index = ChromaIndex(path=tmp_path / "chroma", url="", name="passages")
    yield index
    index.close()


@pytest.fixture
def embedder() -> FakeEmbedder:
    return FakeEmbedder()


@pytest.fixture
def knowledge(sqlite: Database, index: ChromaIndex, embedder: FakeEmbedder) -> Documents:
    return Documents(sqlite, index, embedder, chunk_chars=240)


def learn(knowledge: Documents, name: str, data: bytes) -> int:
    """Add and index a document; return its id."""
    document, _ = knowledge.add(name, data, added_by=ADA)
    knowledge.index_pending()
    return document.id


def search(knowledge: Documents, question: str, floor: float = 0.2) -> list[str]:
    return [each.text for each in knowledge.search(question, count=3, floor=floor)]


def test_a_document_is_added_with_what_is_known_of_it(knowledge: Documents, clock: Clock) -> None:
    document, outcome = knowledge.add("menu/tea.md", TEA, added_by=ADA)
    assert outcome == AddOutcome.ADDED
    assert knowledge.documents() == (document,)
    assert (document.name, document.title) == ("menu/tea.md", "Tea")
    assert (document.media_type, document.size_bytes) == ("text/markdown", len(TEA))
    assert (document.chunks, document.added_by) == (2, ADA)
    assert document.created_at == clock()


def test_documents_are_listed_by_name(knowledge: Documents) -> None:
    for name in ("b.txt", "a.txt", "c.txt"):
        knowledge.add(name, name.encode(), added_by=ADA)
    assert [each.name for each in knowledge.documents()] == ["a.txt", "b.txt", "c.txt"]


def test_a_document_is_pending_until_it_is_indexed(knowledge: Documents) -> None:
    document, _ = knowledge.add("tea.md", TEA, added_by=ADA)
    assert (knowledge.pending(), document.indexed) == (1, False)
    assert search(knowledge, "green tea") == []
    assert knowledge.index_pending() == 1
    assert (knowledge.pending(), knowledge.documents()[0].indexed) == (0, True)


def test_indexing_tells_of_each_document_and_does_it_once(knowledge: Documents) -> None:
    knowledge.add("tea.md", TEA, added_by=ADA)
    knowledge.add("leave.txt", LEAVE, added_by=ADA)
    told: list[str] = []
    assert knowledge.index_pending(lambda document: told.append(document.name)) == 2
    assert knowledge.index_pending(lambda document: told.append(document.name)) == 0
    assert told == ["tea.md", "leave.txt"]


def test_the_nearest_passage_is_found_with_its_source(knowledge: Documents) -> None:
    learn(knowledge, "leave.txt", LEAVE)
    document_id = learn(knowledge, "tea.md", TEA)
    [best, *_] = knowledge.search("how long does black tea take?", count=3, floor=0.2)
    assert (best.text, best.title, best.section) == ("Black tea takes four.", "Tea", "Black")
    assert best.document_id == document_id
    assert 0.2 <= best.score <= 1


def test_passages_come_best_first_and_no_more_than_asked_for(knowledge: Documents) -> None:
    for number in range(5):
        knowledge.add(f"{number}.txt", b"tea " + b"and sugar " * number, added_by=ADA)
    knowledge.index_pending()
    found = knowledge.search("tea", count=3, floor=-1)
    scores = [each.score for each in found]
    assert len(found) == 3
    assert scores == sorted(scores, reverse=True)


def test_nothing_below_the_floor_is_found(knowledge: Documents) -> None:
    learn(knowledge, "tea.md", TEA)
    found = knowledge.search("green tea, and what the weather is", count=3, floor=-1)
    floor = found[0].score - 0.01
    assert all(each.score < floor for each in found[1:])
    assert search(knowledge, "green tea, and what the weather is", floor) == [found[0].text]
    assert search(knowledge, "zebra") == []


@pytest.mark.parametrize(("question", "count"), [("green tea", 0), (" \n", 3)])
def test_nothing_is_found_when_nothing_is_asked(
    knowledge: Documents, question: str, count: int
) -> None:
    learn(knowledge, "tea.md", TEA)
    assert knowledge.search(question, count=count, floor=-1) == ()


def test_an_empty_knowledge_base_answers_without_embedding(
    knowledge: Documents, embedder: FakeEmbedder
) -> None:
    assert search(knowledge, "green tea") == []
    assert knowledge.index_pending() == 0
    assert embedder.embedded == []


def test_the_same_file_twice_is_one_document(knowledge: Documents) -> None:
    document_id = learn(knowledge, "tea.md", TEA)
    again, outcome = knowledge.add("tea.md", TEA, added_by=ADA)
    assert (again.id, outcome) == (document_id, AddOutcome.UNCHANGED)
    assert (len(knowledge.documents()), knowledge.pending()) == (1, 0)


def test_the_same_contents_under_another_name_are_one_document(knowledge: Documents) -> None:
    document_id = learn(knowledge, "tea.md", TEA)
    again, outcome = knowledge.add("copy of tea.md", TEA, added_by=ADA)
    assert (again.id, again.name, outcome) == (document_id, "tea.md", AddOutcome.UNCHANGED)
    assert len(knowledge.documents()) == 1


def test_a_changed_file_replaces_its_old_version(knowledge: Documents, index: ChromaIndex) -> None:
    learn(knowledge, "tea.txt", b"Green tea is steeped for two minutes.")
    document, outcome = knowledge.add("tea.txt", b"Green tea takes nine.", added_by=ADA)
    assert outcome == AddOutcome.REPLACED
    assert knowledge.documents() == (document,)
    assert search(knowledge, "green tea") == []
    knowledge.index_pending()
    assert search(knowledge, "green tea") == ["Green tea takes nine."]
    assert index.count() == 1


def test_a_file_that_becomes_a_copy_of_another_leaves_nothing_old_to_find(
    knowledge: Documents,
) -> None:
    learn(knowledge, "tea.txt", b"Green tea takes two minutes.")
    learn(knowledge, "other.txt", b"Coffee takes three minutes.")
    knowledge.add("tea.txt", b"Coffee takes three minutes.", added_by=ADA)
    knowledge.index_pending()
    assert search(knowledge, "green tea takes minutes") == ["Coffee takes three minutes."]


def test_a_document_added_anew_is_cut_as_the_settings_now_say(
    sqlite: Database, index: ChromaIndex, embedder: FakeEmbedder
) -> None:
    data = b"Green tea takes two minutes. " * 20
    learn(Documents(sqlite, index, embedder, chunk_chars=240), "tea.txt", data)
    finer = Documents(sqlite, index, embedder, chunk_chars=80)
    document, _ = finer.add("tea.txt", data, added_by=ADA)
    assert document.chunks > 5


def test_a_removed_document_is_found_no_more(knowledge: Documents, index: ChromaIndex) -> None:
    document_id = learn(knowledge, "tea.md", TEA)
    learn(knowledge, "leave.txt", LEAVE)
    assert knowledge.remove(document_id).name == "tea.md"
    assert search(knowledge, "green tea") == []
    knowledge.index_pending()
    assert index.count() == 1


def test_removing_what_is_not_there_says_how_to_see_what_is(knowledge: Documents) -> None:
    with pytest.raises(DocumentNotFound, match="no document 404: `ratchet knowledge list`"):
        knowledge.remove(404)


def test_removed_vectors_do_not_crowd_out_what_is_there(knowledge: Documents) -> None:
    gone = [
        learn(knowledge, f"{number}.txt", b"green tea" + b" tea" * number) for number in range(40)
    ]
    learn(knowledge, "kept.txt", b"green tea with a long tail of words of its own")
    for document_id in gone:
        knowledge.remove(document_id)
    assert search(knowledge, "green tea") == ["green tea with a long tail of words of its own"]


def test_vectors_of_a_document_removed_while_the_index_was_closed_are_swept_out(
    knowledge: Documents, index: ChromaIndex
) -> None:
    document_id = learn(knowledge, "tea.md", TEA)
    learn(knowledge, "leave.txt", LEAVE)
    knowledge.close()
    knowledge.remove(document_id)
    assert index.count() == 3
    knowledge.index_pending()
    assert index.count() == 1


def test_a_document_that_cannot_be_read_changes_nothing(knowledge: Documents) -> None:
    learn(knowledge, "tea.txt", b"Green tea takes two minutes.")
    before = knowledge.documents()
    with pytest.raises(UnreadableDocument):
        knowledge.add("tea.txt", b"\x00\x01\x02", added_by=ADA)
    assert knowledge.documents() == before
    assert search(knowledge, "green tea") == ["Green tea takes two minutes."]


def test_an_index_dropped_behind_our_back_heals(
    knowledge: Documents, index: ChromaIndex, tmp_path: Path
) -> None:
    learn(knowledge, "tea.md", TEA)
    knowledge.close()
    shutil.rmtree(tmp_path / "chroma")
    assert search(knowledge, "green tea") == []
    assert knowledge.index_pending() == 1
    assert search(knowledge, "green tea")[0].startswith("Green tea")
    assert index.count() == 2


def test_another_embedder_makes_everything_pending_and_heals(
    sqlite: Database, index: ChromaIndex, knowledge: Documents
) -> None:
    learn(knowledge, "tea.md", TEA)
    other = FakeEmbedder("other words")
    changed = Documents(sqlite, index, other, chunk_chars=240)
    assert changed.pending() == 1
    assert changed.index_pending() == 1
    assert search(changed, "green tea")[0].startswith("Green tea")


def test_another_index_makes_everything_pending(
    sqlite: Database, embedder: FakeEmbedder, knowledge: Documents, tmp_path: Path
) -> None:
    learn(knowledge, "tea.md", TEA)
    server = ChromaIndex(path=tmp_path / "chroma", url="http://127.0.0.1:9", name="passages")
    assert Documents(sqlite, server, embedder, chunk_chars=240).pending() == 1


def test_reindex_embeds_everything_anew(
    knowledge: Documents, index: ChromaIndex, embedder: FakeEmbedder
) -> None:
    learn(knowledge, "tea.md", TEA)
    learn(knowledge, "leave.txt", LEAVE)
    index.upsert([4040], [embedder.embed(["stray"])[0]])
    embedder.embedded.clear()
    assert knowledge.reindex() == 2
    assert (len(embedder.embedded), index.count(), knowledge.pending()) == (3, 3, 0)
    assert search(knowledge, "green tea")[0].startswith("Green tea")


def test_a_crash_between_the_index_and_sql_heals(
    sqlite: Database, knowledge: Documents, index: ChromaIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash() -> None:
        raise RuntimeError("power cut")

    def upsert_and_crash(ids: Sequence[int], vectors: Sequence[Vector]) -> None:
        upsert(ids, vectors)
        monkeypatch.setattr(sqlite, "session", crash)

    upsert = index.upsert
    monkeypatch.setattr(index, "upsert", upsert_and_crash)
    with pytest.raises(RuntimeError, match="power cut"):
        learn(knowledge, "tea.md", TEA)
    monkeypatch.undo()
    assert (knowledge.pending(), index.count()) == (1, 2)
    assert knowledge.index_pending() == 1
    assert (knowledge.pending(), index.count()) == (0, 2)


def test_a_crash_while_reindexing_heals(
    knowledge: Documents, embedder: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_texts: Sequence[str]) -> list[Vector]:
        raise RuntimeError("power cut")

    learn(knowledge, "tea.md", TEA)
    with monkeypatch.context() as patched:
        patched.setattr(embedder, "embed", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            knowledge.reindex()
    assert knowledge.index_pending() == 1
    assert search(knowledge, "green tea") != []


def test_a_document_removed_while_it_was_being_embedded_is_swept_out(
    knowledge: Documents, index: ChromaIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    document, _ = knowledge.add("tea.md", TEA, added_by=ADA)

    def upsert_after_removal(ids: Sequence[int], vectors: Sequence[Vector]) -> None:
        knowledge.remove(document.id)
        upsert(ids, vectors)

    upsert = index.upsert
    monkeypatch.setattr(index, "upsert", upsert_after_removal)
    knowledge.index_pending()
    assert index.count() == 0


def test_an_index_that_is_down_keeps_what_is_added_pending(
    sqlite: Database, embedder: FakeEmbedder, tmp_path: Path
) -> None:
    down = ChromaIndex(path=tmp_path / "chroma", url="http://127.0.0.1:9", name="passages")
    knowledge = Documents(sqlite, down, embedder, chunk_chars=240)
    knowledge.add("tea.md", TEA, added_by=ADA)
    with pytest.raises(IndexUnavailable):
        knowledge.index_pending()
    with pytest.raises(IndexUnavailable):
        search(knowledge, "green tea")
    assert (knowledge.pending(), embedder.embedded) == (1, [])


def test_a_passage_names_its_title_and_section_as_source() -> None:
    passage = Passage(
        chunk_id=1, document_id=1, title="Tea", section="Green › Japan", text="x", score=0.5
    )
    assert passage.source == "Tea › Green › Japan"
