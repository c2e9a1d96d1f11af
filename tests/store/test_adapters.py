"""Adapters are known by their content, and at most one is active. On both databases."""

import hashlib
import shutil
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from store.adapters import FILES, Adapters, hash_adapter
from store.database import Database
from store.domain import Adapter, AdapterStatus
from store.errors import AdapterDamaged, AdapterNotFound
from store.tables import AdapterRow
from tests.fakes import Clock
from tests.store.threads import at_once


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


@pytest.fixture
def adapters(database: Database, folder: Path) -> Adapters:
    return Adapters(database, folder)


def trained(folder: Path, weights: bytes = b"weights") -> Path:
    """What a training run leaves behind."""
    folder.mkdir(exist_ok=True)
    for name, data in zip(FILES, (b'{"r": 8}', weights), strict=True):
        (folder / name).write_bytes(data)
    (folder / "optimizer.pt").write_bytes(b"not part of the adapter")
    return folder


def add(adapters: Adapters, tmp_path: Path, weights: bytes = b"weights") -> Adapter:
    return adapters.add(trained(tmp_path / "trained", weights), base_model="starter")


def statuses(adapters: Adapters, *added: Adapter) -> list[AdapterStatus]:
    return [adapters.get(each.name).status for each in added]


def visible(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*") if not path.name.startswith(".")]


def test_an_adapter_is_named_by_its_sequence_and_content(
    adapters: Adapters, tmp_path: Path
) -> None:
    sha256 = hashlib.sha256(b'{"r": 8}' + b"weights").hexdigest()
    adapter = add(adapters, tmp_path)
    assert (adapter.name, adapter.sha256) == (f"a1-{sha256[:8]}", sha256)
    assert add(adapters, tmp_path).name == f"a2-{sha256[:8]}"


def test_an_added_adapter_is_a_candidate_with_what_is_known_of_it(
    adapters: Adapters, tmp_path: Path, clock: Clock
) -> None:
    adapter = adapters.add(
        trained(tmp_path / "trained"), base_model="starter", metrics={"accuracy": 0.75}
    )
    assert adapters.get(adapter.name) == adapter
    assert (adapter.status, adapter.base_model) == (AdapterStatus.CANDIDATE, "starter")
    assert (adapter.metrics, adapter.run_id) == ({"accuracy": 0.75}, None)
    assert adapter.created_at == clock()


def test_the_copy_holds_the_adapter_and_outlives_its_source(
    adapters: Adapters, tmp_path: Path
) -> None:
    adapter = add(adapters, tmp_path)
    shutil.rmtree(tmp_path / "trained")
    path = Path(adapters.get(adapter.name).path)
    assert path.is_absolute()
    assert {file.name for file in path.iterdir()} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_an_incomplete_adapter_is_not_taken_in(
    adapters: Adapters, folder: Path, tmp_path: Path, name: str
) -> None:
    source = trained(tmp_path / "trained")
    (source / name).unlink()
    with pytest.raises(AdapterDamaged, match=f"lacks {name}"):
        adapters.add(source, base_model="starter")
    assert visible(folder) == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_tampered_with_is_noticed(
    adapters: Adapters, tmp_path: Path, name: str
) -> None:
    adapter = add(adapters, tmp_path)
    (Path(adapter.path) / name).write_bytes(b"something else")
    with pytest.raises(AdapterDamaged, match=rf"{adapter.name} were changed .*do not use it"):
        adapters.get(adapter.name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_is_noticed(adapters: Adapters, tmp_path: Path, name: str) -> None:
    adapter = add(adapters, tmp_path)
    (Path(adapter.path) / name).unlink()
    with pytest.raises(AdapterDamaged, match=f"lacks {name}"):
        adapters.get(adapter.name)


def test_a_hash_depends_on_every_file(tmp_path: Path) -> None:
    first = hash_adapter(trained(tmp_path / "a"))
    assert hash_adapter(trained(tmp_path / "b")) == first
    assert hash_adapter(trained(tmp_path / "c", b"other")) != first


def test_an_adapter_that_was_never_added_is_not_found(adapters: Adapters) -> None:
    with pytest.raises(AdapterNotFound, match="no adapter a9-00000000"):
        adapters.get("a9-00000000")
    with pytest.raises(AdapterNotFound):
        adapters.activate("a9-00000000")


def test_the_base_model_speaks_until_an_adapter_is_activated(
    adapters: Adapters, tmp_path: Path
) -> None:
    adapter = add(adapters, tmp_path)
    assert adapters.active() is None
    activated = adapters.activate(adapter.name)
    assert activated is not None
    assert activated.status == AdapterStatus.ACTIVE
    assert adapters.active() == activated == adapters.get(adapter.name)


def test_activating_retires_the_one_before(adapters: Adapters, tmp_path: Path) -> None:
    first, second = add(adapters, tmp_path, b"1"), add(adapters, tmp_path, b"2")
    adapters.activate(first.name)
    adapters.activate(second.name)
    assert statuses(adapters, first, second) == [AdapterStatus.RETIRED, AdapterStatus.ACTIVE]


def test_a_retired_adapter_can_come_back(adapters: Adapters, tmp_path: Path) -> None:
    first, second = add(adapters, tmp_path, b"1"), add(adapters, tmp_path, b"2")
    for adapter in (first, second, first):
        adapters.activate(adapter.name)
    assert statuses(adapters, first, second) == [AdapterStatus.ACTIVE, AdapterStatus.RETIRED]


def test_activating_the_active_one_changes_nothing(adapters: Adapters, tmp_path: Path) -> None:
    adapter = add(adapters, tmp_path)
    adapters.activate(adapter.name)
    adapters.activate(adapter.name)
    assert statuses(adapters, adapter) == [AdapterStatus.ACTIVE]


def test_activating_none_goes_back_to_the_base_model(adapters: Adapters, tmp_path: Path) -> None:
    adapter = add(adapters, tmp_path)
    adapters.activate(adapter.name)
    assert adapters.activate(None) is None
    assert adapters.active() is None
    assert statuses(adapters, adapter) == [AdapterStatus.RETIRED]


def test_activating_what_does_not_exist_leaves_the_active_one(
    adapters: Adapters, tmp_path: Path
) -> None:
    adapter = add(adapters, tmp_path)
    adapters.activate(adapter.name)
    with pytest.raises(AdapterNotFound):
        adapters.activate("a9-00000000")
    assert adapters.active() == adapters.get(adapter.name)


def test_the_database_itself_refuses_two_active_ones(
    database: Database, adapters: Adapters, tmp_path: Path
) -> None:
    add(adapters, tmp_path, b"1")
    add(adapters, tmp_path, b"2")
    with pytest.raises(IntegrityError), database.session() as session:
        session.execute(update(AdapterRow).values(status=AdapterStatus.ACTIVE))
    assert adapters.active() is None


def test_promotions_at_once_all_succeed_and_leave_one_active(
    adapters: Adapters, tmp_path: Path
) -> None:
    added = [add(adapters, tmp_path, bytes([number])) for number in range(4)]
    for _ in range(5):
        at_once(4, lambda number: adapters.activate(added[number].name))
        assert statuses(adapters, *added).count(AdapterStatus.ACTIVE) == 1


def test_a_crash_before_the_rename_leaves_nothing_visible(
    adapters: Adapters, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_path: Path, _target: Path) -> Path:
        raise OSError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", crash)
        with pytest.raises(OSError, match="power cut"):
            add(adapters, tmp_path)
    assert visible(folder) == []
    adapter = add(adapters, tmp_path)
    assert visible(folder) == [adapter.name]


def test_a_crash_between_rename_and_commit_does_not_keep_the_adapter_out(
    adapters: Adapters, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def rename_then_crash(path: Path, target: Path) -> Path:
        rename(path, target)
        raise OSError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename_then_crash)
        with pytest.raises(OSError, match="power cut"):
            add(adapters, tmp_path)
    adapter = add(adapters, tmp_path)
    assert adapters.get(adapter.name) == adapter
    assert visible(folder) == [adapter.name]
