"""Import of files and folders into the knowledge base."""

from pathlib import Path

import pytest

from bot.cli.ingest import find_files, ingest
from bot.errors import UsageError
from store.database import Database
from store.documents.documents import Documents
from store.domain import AddOutcome
from store.index import ChromaIndex
from tests.fakes import FakeEmbedder


@pytest.fixture
def knowledge(sqlite: Database, tmp_path: Path) -> Documents:
    index = ChromaIndex(path=tmp_path / "chroma", url="", name="chunks")
    return Documents(sqlite, index, FakeEmbedder(), chunk_chars=240)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name in ("a.md", "deep/b.txt", "deep/c.exe", ".git/d.md", ".e.md"):
        (folder / name).write_text(f"This is {name}.")
    return folder


def test_a_folder_gives_the_files_that_can_be_read_and_no_hidden_ones(folder: Path) -> None:
    assert [name for name, _ in find_files([folder])] == ["a.md", "deep/b.txt"]


def test_a_file_that_is_named_is_taken_whatever_its_type(folder: Path) -> None:
    assert [name for name, _ in find_files([folder / "deep" / "c.exe"])] == ["c.exe"]


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        list(find_files([tmp_path / "nowhere"]))


def test_a_file_that_cannot_be_read_stops_no_other(folder: Path, knowledge: Documents) -> None:
    results = ingest(knowledge, [folder / "deep" / "c.exe", folder / "a.md"], lambda result: None)

    assert [result.outcome for result in results] == [None, AddOutcome.ADDED]
    assert ".exe" in results[0].reason


def test_two_files_that_would_share_a_name_are_refused_before_anything_is_added(
    folder: Path, knowledge: Documents
) -> None:
    (folder / "deep" / "a.md").write_text("Another a.")

    with pytest.raises(UsageError, match=r"both be called a\.md"):
        ingest(knowledge, [folder / "a.md", folder / "deep" / "a.md"], lambda result: None)

    assert knowledge.documents() == ()
