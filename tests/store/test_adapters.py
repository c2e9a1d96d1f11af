"""Adapters are identified by their content, and at most one is active. On both databases."""

import errno
import hashlib
import os
import shutil
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from store.adapter_files import FILES, RECIPE_FILE, hash_adapter
from store.adapters import Adapters
from store.database import Database
from store.domain import Adapter, AdapterNotes, AdapterStatus, Check, GateReport
from store.errors import AdapterDamaged, AdapterNotFit, AdapterNotFound, NothingToRollBack
from store.runs import Runs
from store.tables import AdapterRow
from tests.fakes import Clock
from tests.store.talk import ADA
from tests.store.threads import at_once


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


@pytest.fixture
def adapters(database: Database, folder: Path) -> Adapters:
    return Adapters(database, folder)


def trained(folder: Path, weights: bytes = b"weights") -> Path:
    """Write the files that a training run leaves behind."""
    folder.mkdir(exist_ok=True)
    for name, data in zip(FILES, (b'{"r": 8}', weights), strict=True):
        (folder / name).write_bytes(data)
    (folder / "optimizer.pt").write_bytes(b"not part of the adapter")
    return folder


def add(adapters: Adapters, tmp_path: Path, weights: bytes = b"weights") -> Adapter:
    return adapters.add(trained(tmp_path / "trained", weights), base_model="starter")


def promote(adapters: Adapters, adapter: Adapter, reason: str = "a test") -> Adapter:
    return adapters.promote(adapter.name, base_model="starter", reason=reason)


def report(passed: bool) -> GateReport:
    check = Check(name="preference", value=0.9, limit="> 0.5", passed=passed, detail="")
    return GateReport(checks=(check,))


def roll_back(adapters: Adapters) -> str | None:
    """Go one version back; return the name of the one that is active then."""
    before = adapters.rollback(reason="a test")
    assert before == adapters.active()
    return before.name if before else None


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
        trained(tmp_path / "trained"), base_model="starter", notes=AdapterNotes(recipe={"rank": 8})
    )
    assert adapters.get(adapter.name) == adapter
    assert (adapter.status, adapter.base_model) == (AdapterStatus.CANDIDATE, "starter")
    assert (adapter.notes, adapter.run_id) == (AdapterNotes(recipe={"rank": 8}), None)
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


@pytest.mark.bad_input("an adapter with a missing file")
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
        adapters.promote("a9-00000000", base_model="starter", reason="a test")
    with pytest.raises(AdapterNotFound):
        adapters.reject("a9-00000000")
    with pytest.raises(AdapterNotFound):
        adapters.evaluate("a9-00000000", GateReport(checks=()), run_id=None)
    assert adapters.report("a9-00000000") is None


def test_all_versions_are_listed_oldest_first(adapters: Adapters, tmp_path: Path) -> None:
    assert adapters.all() == ()
    added = [add(adapters, tmp_path, bytes([number])) for number in range(11)]
    assert adapters.all() == tuple(added)


def test_the_version_that_a_run_made_is_found(
    database: Database, adapters: Adapters, tmp_path: Path
) -> None:
    run, _ = Runs(database).queue("a test")
    add(adapters, tmp_path, b"of no run")
    assert adapters.of_run(run.id) is None
    made = adapters.add(trained(tmp_path / "trained"), base_model="starter", run_id=run.id)
    assert made.run_id == run.id
    assert adapters.of_run(run.id) == made


def test_the_recipe_is_kept_beside_an_adapter_and_is_no_part_of_what_it_is(
    adapters: Adapters, tmp_path: Path
) -> None:
    plain = add(adapters, tmp_path)
    (tmp_path / "trained" / RECIPE_FILE).write_text('{"seed": 1}')
    adapter = add(adapters, tmp_path)
    kept = Path(adapter.path) / RECIPE_FILE
    assert kept.read_text() == '{"seed": 1}'
    assert adapter.sha256 == plain.sha256
    kept.unlink()
    assert adapters.get(adapter.name) == adapter


def test_the_base_model_speaks_until_an_adapter_is_promoted(
    adapters: Adapters, tmp_path: Path
) -> None:
    adapter = add(adapters, tmp_path)
    assert adapters.active() is None
    promoted = promote(adapters, adapter)
    assert promoted.status == AdapterStatus.ACTIVE
    assert adapters.active() == promoted == adapters.get(adapter.name)


def test_promoting_retires_the_one_before(adapters: Adapters, tmp_path: Path) -> None:
    first, second = add(adapters, tmp_path, b"1"), add(adapters, tmp_path, b"2")
    promote(adapters, first)
    promote(adapters, second)
    assert statuses(adapters, first, second) == [AdapterStatus.RETIRED, AdapterStatus.ACTIVE]


def test_a_retired_adapter_can_be_promoted_again(adapters: Adapters, tmp_path: Path) -> None:
    first, second = add(adapters, tmp_path, b"1"), add(adapters, tmp_path, b"2")
    for adapter in (first, second, first):
        promote(adapters, adapter)
    assert statuses(adapters, first, second) == [AdapterStatus.ACTIVE, AdapterStatus.RETIRED]


def test_promoting_the_active_one_changes_nothing(adapters: Adapters, tmp_path: Path) -> None:
    adapter = add(adapters, tmp_path)
    promote(adapters, adapter)
    promote(adapters, adapter)
    assert statuses(adapters, adapter) == [AdapterStatus.ACTIVE]
    assert len(adapters.history()) == 1


def test_promoting_what_does_not_exist_leaves_the_active_one(
    adapters: Adapters, tmp_path: Path
) -> None:
    adapter = add(adapters, tmp_path)
    promote(adapters, adapter)
    with pytest.raises(AdapterNotFound):
        adapters.promote("a9-00000000", base_model="starter", reason="a test")
    assert adapters.active() == adapters.get(adapter.name)


@pytest.mark.bad_input("/promote of a rejected version")
def test_a_rejected_adapter_is_promoted_by_force_alone(adapters: Adapters, tmp_path: Path) -> None:
    adapter = add(adapters, tmp_path)
    adapters.reject(adapter.name)
    with pytest.raises(AdapterNotFit, match=f"{adapter.name} was rejected.*--force"):
        promote(adapters, adapter)
    assert statuses(adapters, adapter) == [AdapterStatus.REJECTED]
    adapters.promote(adapter.name, base_model="starter", reason="a test", force=True)
    assert adapters.active() == adapters.get(adapter.name)


@pytest.mark.parametrize("passed", [None, False])
def test_what_a_run_made_is_not_promoted_before_the_gate_passed_it(
    adapters: Adapters, database: Database, tmp_path: Path, passed: bool | None
) -> None:
    run, _ = Runs(database).queue("a test")
    adapter = adapters.add(trained(tmp_path / "trained"), base_model="starter", run_id=run.id)
    if passed is not None:
        adapters.evaluate(adapter.name, report(passed), run_id=run.id)

    with pytest.raises(AdapterNotFit, match=f"{adapter.name} has not passed .*--force"):
        promote(adapters, adapter)
    assert adapters.active() is None

    adapters.evaluate(adapter.name, report(True), run_id=run.id)
    assert promote(adapters, adapter) == adapters.active()


def test_a_version_takes_the_place_of_the_one_it_was_measured_against_alone(
    adapters: Adapters, tmp_path: Path
) -> None:
    one, two = add(adapters, tmp_path, b"one"), add(adapters, tmp_path, b"two")
    promote(adapters, one)

    with pytest.raises(AdapterNotFit, match=f"{one.name} went live meanwhile"):
        adapters.promote(two.name, base_model="starter", reason="a test", instead_of=[None])
    assert statuses(adapters, one, two) == [AdapterStatus.ACTIVE, AdapterStatus.CANDIDATE]

    adapters.promote(two.name, base_model="starter", reason="a test", instead_of=[one.name])
    assert statuses(adapters, one, two) == [AdapterStatus.RETIRED, AdapterStatus.ACTIVE]


@pytest.mark.bad_input("a base model that changed since the last run")
@pytest.mark.parametrize("force", [False, True])
def test_an_adapter_of_another_base_model_is_never_promoted(
    adapters: Adapters, tmp_path: Path, force: bool
) -> None:
    adapter = add(adapters, tmp_path)
    with pytest.raises(AdapterNotFit, match="was trained on starter, and another is in use"):
        adapters.promote(adapter.name, base_model="another", reason="a test", force=force)
    assert adapters.active() is None
    assert adapters.history() == ()


@pytest.mark.parametrize("name", FILES)
def test_an_adapter_whose_files_were_changed_is_never_promoted(
    adapters: Adapters, tmp_path: Path, name: str
) -> None:
    before, adapter = add(adapters, tmp_path, b"1"), add(adapters, tmp_path, b"2")
    promote(adapters, before)
    (Path(adapter.path) / name).write_bytes(b"something else")
    with pytest.raises(AdapterDamaged):
        adapters.promote(adapter.name, base_model="starter", reason="a test", force=True)
    assert adapters.active() == adapters.get(before.name)


def test_only_a_candidate_can_be_rejected(adapters: Adapters, tmp_path: Path) -> None:
    retired, active = add(adapters, tmp_path, b"1"), add(adapters, tmp_path, b"2")
    promote(adapters, retired)
    promote(adapters, active)
    adapters.reject(retired.name)
    adapters.reject(active.name)
    assert statuses(adapters, retired, active) == [AdapterStatus.RETIRED, AdapterStatus.ACTIVE]


def test_a_rollback_goes_to_the_version_before_then_to_the_base_model_then_nowhere(
    adapters: Adapters, tmp_path: Path
) -> None:
    first, second = add(adapters, tmp_path, b"1"), add(adapters, tmp_path, b"2")
    promote(adapters, first)
    promote(adapters, second)
    assert roll_back(adapters) == first.name
    assert statuses(adapters, first, second) == [AdapterStatus.ACTIVE, AdapterStatus.RETIRED]
    assert roll_back(adapters) is None
    assert statuses(adapters, first, second) == [AdapterStatus.RETIRED, AdapterStatus.RETIRED]
    with pytest.raises(NothingToRollBack, match="the base model is in use already"):
        roll_back(adapters)


def test_what_is_withdrawn_is_rejected_and_the_version_before_answers(
    adapters: Adapters, tmp_path: Path
) -> None:
    first, second = add(adapters, tmp_path, b"1"), add(adapters, tmp_path, b"2")
    promote(adapters, first)
    promote(adapters, second)

    assert adapters.withdraw(second.name, reason="its weights are not finite") == adapters.active()

    assert statuses(adapters, first, second) == [AdapterStatus.ACTIVE, AdapterStatus.REJECTED]
    assert adapters.history()[0].reason == "its weights are not finite"
    with pytest.raises(AdapterNotFit, match="not in use any more"):
        adapters.withdraw(second.name, reason="again")


@pytest.mark.bad_input("/rollback with nothing behind")
def test_there_is_nothing_to_roll_back_before_the_first_promotion(
    adapters: Adapters, tmp_path: Path
) -> None:
    add(adapters, tmp_path)
    with pytest.raises(NothingToRollBack):
        roll_back(adapters)
    assert adapters.history() == ()


def test_what_was_rolled_back_can_be_promoted_again_and_rolled_back_again(
    adapters: Adapters, tmp_path: Path
) -> None:
    first, second = add(adapters, tmp_path, b"1"), add(adapters, tmp_path, b"2")
    promote(adapters, first)
    for _ in range(2):
        promote(adapters, second)
        assert adapters.active() == adapters.get(second.name)
        assert roll_back(adapters) == first.name
    assert roll_back(adapters) is None


def test_a_rollback_does_not_go_to_what_was_rolled_back(adapters: Adapters, tmp_path: Path) -> None:
    first, second, third = (add(adapters, tmp_path, bytes([number])) for number in range(3))
    promote(adapters, first)
    promote(adapters, second)
    roll_back(adapters)
    promote(adapters, third)
    assert roll_back(adapters) == first.name
    assert roll_back(adapters) is None


def test_a_rollback_after_going_to_and_fro_visits_each_version_once(
    adapters: Adapters, tmp_path: Path
) -> None:
    first, second = add(adapters, tmp_path, b"1"), add(adapters, tmp_path, b"2")
    for adapter in (first, second, first, second):
        promote(adapters, adapter)
    assert [roll_back(adapters), roll_back(adapters)] == [first.name, None]


def test_a_version_promoted_after_going_back_to_the_base_model_goes_back_to_it(
    adapters: Adapters, tmp_path: Path
) -> None:
    first, second = add(adapters, tmp_path, b"1"), add(adapters, tmp_path, b"2")
    promote(adapters, first)
    roll_back(adapters)
    promote(adapters, second)
    assert roll_back(adapters) is None


def test_the_history_keeps_every_change_with_its_reason_its_person_and_its_time(
    adapters: Adapters, tmp_path: Path, clock: Clock
) -> None:
    adapter, times = add(adapters, tmp_path), [clock()]
    adapters.promote(adapter.name, base_model="starter", reason="run 7 passed the gate")
    clock.advance(seconds=60)
    times.append(clock())
    adapters.rollback(reason="too chatty", person_id=ADA)
    clock.advance(seconds=60)
    times.append(clock())
    adapters.promote(adapter.name, base_model="starter", reason="sorry", person_id=ADA)
    kept = [
        (each.adapter, each.reason, each.person_id, each.created_at) for each in adapters.history()
    ]
    assert kept == [
        (adapter.name, "sorry", ADA, times[2]),
        (None, "too chatty", ADA, times[1]),
        (adapter.name, "run 7 passed the gate", None, times[0]),
    ]


def test_the_history_gives_the_newest_changes(adapters: Adapters, tmp_path: Path) -> None:
    added = [add(adapters, tmp_path, bytes([number])) for number in range(4)]
    for adapter in added:
        promote(adapters, adapter, f"for {adapter.name}")
    newest = [(each.adapter, each.reason) for each in adapters.history(2)]
    assert newest == [(each.name, f"for {each.name}") for each in (added[3], added[2])]


REPORT = GateReport(
    checks=(
        Check(name="preference", value=0.625, limit="≥ 0.5", passed=True),
        Check(name="retention", value=None, limit="≥ −0.03", passed=False, detail="not measured"),
    )
)


def test_what_the_gate_said_is_kept_with_every_reason(
    database: Database, adapters: Adapters, tmp_path: Path
) -> None:
    run, _ = Runs(database).queue("a test")
    adapter, other = add(adapters, tmp_path, b"1"), add(adapters, tmp_path, b"2")
    assert adapters.report(adapter.name) is None
    adapters.evaluate(adapter.name, REPORT, run_id=run.id)
    assert adapters.report(adapter.name) == REPORT
    assert adapters.report(other.name) is None


def test_the_gates_last_word_counts(adapters: Adapters, tmp_path: Path) -> None:
    adapter, passing = add(adapters, tmp_path), GateReport(checks=REPORT.checks[:1])
    adapters.evaluate(adapter.name, REPORT, run_id=None)
    adapters.evaluate(adapter.name, passing, run_id=None)
    assert adapters.report(adapter.name) == passing


def test_a_report_passes_if_every_check_does_and_there_is_one() -> None:
    assert not REPORT.passed
    assert GateReport(checks=REPORT.checks[:1]).passed
    assert not GateReport(checks=()).passed


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
        promoted = at_once(4, lambda number: promote(adapters, added[number]))
        assert {each.status for each in promoted} == {AdapterStatus.ACTIVE}
        assert statuses(adapters, *added).count(AdapterStatus.ACTIVE) == 1
    active = adapters.active()
    assert active is not None
    assert adapters.history(1)[0].adapter == active.name


def test_two_threads_that_roll_back_at_once_go_two_versions_back(
    adapters: Adapters, tmp_path: Path
) -> None:
    first, second = add(adapters, tmp_path, b"1"), add(adapters, tmp_path, b"2")
    promote(adapters, first)
    promote(adapters, second)
    gone_to = at_once(2, lambda _: adapters.rollback(reason="a test"))
    assert {each.name if each else None for each in gone_to} == {first.name, None}
    assert adapters.active() is None


@pytest.mark.bad_input("a full disk")
def test_a_full_disk_leaves_nothing_behind(
    adapters: Adapters, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(_source: Path, target: Path) -> None:
        target.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(shutil, "copyfile", fill)

    for _ in range(2):
        with pytest.raises(OSError, match="no space left"):
            add(adapters, tmp_path)
    assert list(folder.iterdir()) == []


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


def versions(adapters: Adapters, tmp_path: Path, count: int) -> list[Adapter]:
    """Add so many candidates."""
    return [
        adapters.add(trained(tmp_path / "made", f"weights {number}".encode()), base_model="base")
        for number in range(count)
    ]


def promoted(adapters: Adapters, tmp_path: Path, count: int) -> list[str]:
    """Add so many versions, each of which was active once; the last one is."""
    names = [each.name for each in versions(adapters, tmp_path, count)]
    for name in names:
        adapters.promote(name, base_model="base", reason="test")
    return names


def on_disk(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_versions_that_are_not_in_use_are_removed_beyond_so_many(
    adapters: Adapters, folder: Path, tmp_path: Path
) -> None:
    names = promoted(adapters, tmp_path, 5)

    told = adapters.tidy(keep=1)

    assert told == tuple(f"removed {name}, which was not in use" for name in names[1::-1])
    assert on_disk(folder) == set(names[2:])
    assert [each.status for each in adapters.all()[:2]] == [AdapterStatus.REMOVED] * 2
    assert adapters.tidy(keep=1) == ()


def test_the_active_version_and_the_one_to_go_back_to_are_always_kept(
    adapters: Adapters, folder: Path, tmp_path: Path
) -> None:
    names = promoted(adapters, tmp_path, 4)
    adapters.rollback(reason="test")

    adapters.tidy(keep=0)

    assert on_disk(folder) == set(names[1:3])
    before = adapters.rollback(reason="test")
    assert before is not None
    assert before.name == names[1]


def test_candidates_are_kept(adapters: Adapters, folder: Path, tmp_path: Path) -> None:
    names = {each.name for each in versions(adapters, tmp_path, 3)}

    assert adapters.tidy(keep=0) == ()
    assert on_disk(folder) == names


def test_what_was_removed_cannot_be_promoted(
    adapters: Adapters, folder: Path, tmp_path: Path
) -> None:
    first, *_ = promoted(adapters, tmp_path, 3)
    adapters.tidy(keep=0)

    with pytest.raises(AdapterNotFit, match="removed to save room"):
        adapters.promote(first, base_model="base", reason="test")


def test_a_directory_that_a_crash_left_is_removed_but_not_one_that_is_being_made(
    adapters: Adapters, folder: Path, tmp_path: Path
) -> None:
    (name,) = promoted(adapters, tmp_path, 1)
    for left in (".half", "a9-deadbeef", ".young"):
        (folder / left).mkdir()
    for left in (".half", "a9-deadbeef"):
        os.utime(folder / left, (0, 0))

    assert adapters.tidy(keep=5) == (
        "removed .half, which a crash left",
        "removed a9-deadbeef, which a crash left",
    )
    assert on_disk(folder) == {name, ".young"}


def test_a_version_whose_files_are_gone_is_said_to_be_removed(
    adapters: Adapters, folder: Path, tmp_path: Path
) -> None:
    (candidate,) = versions(adapters, tmp_path, 1)
    shutil.rmtree(folder / candidate.name)

    assert adapters.tidy(keep=5) == (f"the files of {candidate.name} are gone",)
    assert adapters.all()[0].status is AdapterStatus.REMOVED
