"""The vector index, in this process and on a real Chroma server: one contract for both."""

import random
import shutil
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from store.errors import IndexInUse, IndexUnavailable
from store.index import BATCH_SIZE, ChromaIndex
from tests.store.conftest import running_chroma
from tests.store.threads import at_once

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
NORTHEAST = [0.6, 0.8]

_names = (f"test-{number}" for number in count())  # so that tests can share a server


@pytest.fixture(params=["embedded", "server"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ChromaIndex]:
    url = request.getfixturevalue("chroma_url") if request.param == "server" else ""
    index = ChromaIndex(path=tmp_path / "chroma", url=url, name=next(_names))
    yield index
    index.close()


def embedded(folder: Path) -> ChromaIndex:
    return ChromaIndex(path=folder / "chroma", url="", name="passages")


def on_server(url: str, name: str) -> ChromaIndex:
    return ChromaIndex(path=Path("unused"), url=url, name=name)


def test_a_new_index_is_empty(index: ChromaIndex) -> None:
    assert index.count() == 0
    assert index.ids() == set()
    assert index.nearest(EAST, 5) == []


def test_what_is_put_in_is_counted_and_listed(index: ChromaIndex) -> None:
    index.upsert([7, 1_000_000_007], [EAST, NORTH])
    assert index.count() == 2
    assert index.ids() == {7, 1_000_000_007}


def test_the_nearest_come_first_with_their_cosine(index: ChromaIndex) -> None:
    index.upsert([1, 2, 3, 4], [WEST, NORTHEAST, EAST, NORTH])
    found = index.nearest(EAST, 4)
    assert [each for each, _ in found] == [3, 2, 4, 1]
    assert [score for _, score in found] == pytest.approx([1.0, 0.6, 0.0, -1.0], abs=1e-5)


def test_no_more_are_given_than_asked_for(index: ChromaIndex) -> None:
    index.upsert([1, 2, 3], [EAST, NORTHEAST, WEST])
    assert [each for each, _ in index.nearest(EAST, 2)] == [1, 2]


def test_asking_for_more_than_there_are_gives_all(index: ChromaIndex) -> None:
    index.upsert([1, 2], [EAST, NORTH])
    assert [each for each, _ in index.nearest(EAST, 50)] == [1, 2]


def test_a_vector_under_a_known_id_replaces_the_old_one(index: ChromaIndex) -> None:
    index.upsert([1], [EAST])
    index.upsert([1], [NORTH])
    assert index.count() == 1
    assert index.nearest(NORTH, 1) == [(1, pytest.approx(1.0, abs=1e-5))]


def test_what_is_deleted_is_found_no_more(index: ChromaIndex) -> None:
    index.upsert([1, 2, 3], [EAST, NORTHEAST, WEST])
    index.delete([1, 3])
    assert index.ids() == {2}
    assert [each for each, _ in index.nearest(EAST, 3)] == [2]


def test_deleting_what_is_not_there_is_no_error(index: ChromaIndex) -> None:
    index.upsert([1], [EAST])
    index.delete([404])
    index.delete([])
    assert index.count() == 1


def test_putting_in_nothing_is_no_error(index: ChromaIndex) -> None:
    index.upsert([], [])
    assert index.count() == 0


def test_more_vectors_than_a_batch_all_arrive_and_leave(index: ChromaIndex) -> None:
    dice = random.Random(0)
    ids = list(range(1, 2 * BATCH_SIZE + 2))
    vectors = [[dice.gauss(0, 1) for _ in range(8)] for _ in ids]
    index.upsert(ids, vectors)
    assert index.ids() == set(ids)
    assert [index.nearest(vectors[at], 1)[0][0] for at in (0, BATCH_SIZE, -1)] == [
        ids[at] for at in (0, BATCH_SIZE, -1)
    ]
    index.delete(ids[1:])
    assert index.ids() == {1}


def test_a_dropped_index_is_empty_and_can_be_filled_again(index: ChromaIndex) -> None:
    index.upsert([1, 2], [EAST, NORTH])
    index.drop()
    assert index.count() == 0
    index.upsert([3], [[1.0, 0.0, 0.0]])  # vectors of another embedder are of another length
    assert index.ids() == {3}


def test_what_was_put_in_is_there_after_opening_again(index: ChromaIndex) -> None:
    index.upsert([1], [EAST])
    index.close()
    assert index.ids() == {1}


def test_closing_and_opening_may_be_repeated(index: ChromaIndex) -> None:
    index.close()
    index.open()
    index.open()
    index.close()
    index.close()
    assert index.count() == 0


def test_threads_may_use_it_at_once_from_the_first_moment(index: ChromaIndex) -> None:
    def use(number: int) -> bool:
        index.upsert([number], [EAST])
        return number in index.ids()

    assert all(at_once(4, use))
    assert index.count() == 4


def test_two_open_the_same_folder_and_the_second_is_told(tmp_path: Path) -> None:
    first, second = embedded(tmp_path), embedded(tmp_path)
    first.upsert([1], [EAST])
    with pytest.raises(IndexInUse, match=r"in another process; leave .*RATCHET_CHROMA_URL"):
        second.open()
    first.close()
    assert second.ids() == {1}
    second.close()


def test_being_refused_does_not_take_it_from_the_one_who_has_it(tmp_path: Path) -> None:
    first, second = embedded(tmp_path), embedded(tmp_path)
    first.open()
    with pytest.raises(IndexInUse):
        second.open()
    second.close()
    with pytest.raises(IndexInUse):
        second.open()
    first.close()


@pytest.mark.bad_input("a damaged index")
def test_a_damaged_folder_is_said_to_be_unusable_each_time(tmp_path: Path) -> None:
    index = embedded(tmp_path)
    index.upsert([1], [EAST])
    index.close()
    (tmp_path / "chroma" / "chroma.sqlite3").write_bytes(b"damaged" * 1000)
    for _ in range(2):
        with pytest.raises(IndexUnavailable, match="ratchet knowledge reindex"):
            index.count()
    index.close()


def test_a_damaged_folder_that_was_moved_away_can_be_opened_anew(tmp_path: Path) -> None:
    index = embedded(tmp_path)
    index.open()
    index.close()
    (tmp_path / "chroma" / "chroma.sqlite3").write_bytes(b"damaged" * 1000)
    with pytest.raises(IndexUnavailable):
        index.open()
    shutil.rmtree(tmp_path / "chroma")
    assert index.count() == 0
    index.close()


def test_dropping_makes_a_damaged_folder_usable_as_its_message_says(tmp_path: Path) -> None:
    index = embedded(tmp_path)
    index.upsert([1], [EAST])
    index.close()
    (tmp_path / "chroma" / "chroma.sqlite3").write_bytes(b"damaged" * 1000)
    index.drop()
    assert index.count() == 0
    index.close()


@pytest.mark.bad_input("a damaged index")
def test_damaged_vectors_are_said_to_be_unusable(tmp_path: Path) -> None:
    dice = random.Random(0)
    index = embedded(tmp_path)
    index.upsert(range(1500), [[dice.gauss(0, 1) for _ in range(4)] for _ in range(1500)])
    index.close()
    damaged = list((tmp_path / "chroma").glob("*/*.bin"))
    assert damaged, "so many vectors are written to files"
    for file in damaged:
        file.write_bytes(b"damaged")
    with pytest.raises(IndexUnavailable):
        index.nearest([1.0, 0.0, 0.0, 0.0], 5)
    index.close()


def test_a_folder_that_cannot_be_made_is_said_to_be_unusable(tmp_path: Path) -> None:
    (tmp_path / "chroma").write_text("I am no folder.")
    with pytest.raises(IndexUnavailable):
        embedded(tmp_path).open()


def test_vectors_of_another_length_are_refused_with_what_to_do(index: ChromaIndex) -> None:
    index.upsert([1], [EAST])
    with pytest.raises(IndexUnavailable, match="ratchet knowledge reindex"):
        index.upsert([2], [[1.0, 0.0, 0.0]])


def test_a_server_that_is_down_is_unavailable_at_once() -> None:
    index = on_server("http://127.0.0.1:9", "passages")
    started = time.monotonic()
    with pytest.raises(IndexUnavailable, match=r"127\.0\.0\.1:9 .*RATCHET_CHROMA_URL"):
        index.open()
    assert time.monotonic() - started < 5


def test_a_server_that_goes_down_meanwhile_is_unavailable(tmp_path: Path) -> None:
    with running_chroma(tmp_path / "server") as (url, process):
        index = on_server(url, "passages")
        index.upsert([1], [EAST])
        process.kill()
        process.wait(20)
        with pytest.raises(IndexUnavailable, match="RATCHET_CHROMA_URL"):
            index.count()
        index.close()


def test_what_one_process_drops_on_a_server_the_other_goes_on_using(chroma_url: str) -> None:
    name = next(_names)
    bot, command = on_server(chroma_url, name), on_server(chroma_url, name)
    bot.upsert([1], [EAST])
    command.drop()
    command.upsert([2], [NORTH])
    assert bot.ids() == {2}
    bot.close()
    command.close()


def test_indexes_are_told_apart_by_where_they_are() -> None:
    first = ChromaIndex(path=Path("a"), url="", name="passages")
    second = ChromaIndex(path=Path("a"), url="http://127.0.0.1:8000", name="passages")
    third = ChromaIndex(path=Path("a"), url="", name="others")
    assert len({first.identity, second.identity, third.identity}) == 3
    assert (first.where, second.where) == ("a", "http://127.0.0.1:8000")
