"""Runs from ratings to their outcome, on the tiny model.

Whatever happens, the row says it in a sentence, and nothing goes live that the gate refused.
"""

import errno
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import select
from torch import Tensor

from bot.engine.base import SamplingParams
from bot.engine.errors import EngineError
from examples.scratch import OPEN_GATE
from store.adapters import Adapters
from store.database import Database
from store.domain import (
    Access,
    Adapter,
    AdapterStatus,
    Check,
    GateReport,
    OriginKind,
    Rating,
    RatingSource,
    RunStatus,
    Split,
    TrainingRun,
)
from store.errors import AdapterNotFit
from store.imports import Preference
from store.people import People
from store.ratings import Ratings
from store.runs import Runs
from store.settings import Settings
from store.suspects import Suspects
from store.tables import RunExampleRow
from tests.conftest import MakeAdapter
from tests.fakes import FakeEmbedder
from tests.store.talk import ADA, BOB, CLEO, correct, meet, take_in, talk
from tests.trainer.examples import asked, settings
from trainer.errors import RunCancelled
from trainer.examples.dataset import Snapshot, take_snapshot
from trainer.examples.rater_shares import RaterTrust, Standing
from trainer.proving.gate import decide
from trainer.proving.retention import RetentionCheck, RetentionKind
from trainer.recipe import Recipe
from trainer.run import SMALLER_SHARE, learn

LIKED, DISLIKED = "yes of course", "no way"

SUITE = tuple(
    RetentionCheck(
        id=f"letter-{letter}",
        kind=RetentionKind.FORMAT,
        question=f"Say {letter}.",
        expect=letter,
        reject=None,
        max_new_tokens=4,
    )
    for letter in "ab"
)

Learn = Callable[..., TrainingRun]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use short replies, few checks, and an embedder that only counts words."""
    for module in ("trainer.run", "trainer.tuning.launch"):
        monkeypatch.setattr(f"{module}.SentenceEmbedder", FakeEmbedder)
    monkeypatch.setattr("trainer.proving.evaluator.load_retention_suite", lambda: SUITE)
    monkeypatch.setattr("trainer.tuning.checkpoint_judge.load_development_checks", lambda: SUITE)
    for module in ("trainer.proving.evaluator", "trainer.tuning.checkpoint_judge"):
        monkeypatch.setattr(
            f"{module}.SAMPLING", SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=4)
        )


@pytest.fixture
def adapters(sqlite: Database, tmp_path: Path) -> Adapters:
    return Adapters(sqlite, tmp_path / "adapters")


@pytest.fixture
def learned(sqlite: Database, tiny_model: Path, tmp_path: Path) -> Learn:
    """Return a function that queues, takes and carries out a run; `changes` are settings."""

    def run(**changes: Any) -> TrainingRun:
        runs = Runs(sqlite)
        queued, _ = runs.queue("this test")
        runs.take(queued.id)
        status = learn(_settings(tmp_path, tiny_model, changes), sqlite, queued.id)
        ended = runs.get(queued.id)
        assert ended.status is status
        return ended

    return run


def _settings(data_dir: Path, model: Path, changes: dict[str, Any]) -> Settings:
    return settings(
        **{
            "data_dir": data_dir,
            "model": str(model),
            "device": "cpu",
            "system_prompt": "Be brief.",
            "train_rank": 4,
            "train_learning_rate": 1e-2,
            "train_epochs": 1,
            "train_batch_size": 16,
            "train_max_length": 128,
            "train_rehearsal": 2,
            **OPEN_GATE,
            "gate_preference": 0.0,
            **changes,
        }
    )


def preferences(count: int) -> list[Preference]:
    """Return ratings made elsewhere, 👍 and 👎 in turn."""
    return [
        Preference(
            prompt=asked(f"Why {number}?"),
            completion=LIKED if number % 2 else DISLIKED,
            label=number % 2 == 1,
        )
        for number in range(count)
    ]


def import_ratings(database: Database, ratings: list[Preference]) -> None:
    take_in(database, ratings)


def rate_turns(database: Database, count: int) -> None:
    for number in range(count):
        up = number % 2 == 1
        turn_id = talk(database, f"Who {number}?", LIKED if up else DISLIKED, prompt=f"{number}?")
        rating = Rating.UP if up else Rating.DOWN
        Ratings(database).rate(turn_id, ADA, rating, RatingSource.BUTTON)


@pytest.fixture
def rated(sqlite: Database) -> None:
    """Add enough ratings to learn from and to measure with, from both sources."""
    rate_turns(sqlite, 4)
    import_ratings(sqlite, preferences(60))


@pytest.mark.bad_input("three ratings")
def test_a_run_with_too_little_to_learn_from_is_skipped(learned: Learn, sqlite: Database) -> None:
    rate_turns(sqlite, 3)

    run = learned()

    assert run.status is RunStatus.SKIPPED
    assert "examples to learn from" in run.outcome
    assert run.outcome.endswith("Please rate more replies.")


@pytest.mark.usefixtures("rated")
def test_a_run_that_passes_the_gate_is_promoted_and_says_all_about_itself(
    learned: Learn, adapters: Adapters, sqlite: Database
) -> None:
    run = learned()

    adapter = adapters.of_run(run.id)
    assert adapter is not None
    assert (run.status, adapters.active()) == (RunStatus.PROMOTED, adapter)
    assert run.outcome == f"{adapter.name} passed the gate and is live."
    report = adapters.report(adapter.name)
    assert report is not None
    assert report.passed

    counts = run.examples
    assert counts is not None
    assert counts.train + counts.held_out == 64
    assert counts.positive + counts.negative == counts.train
    chosen = examples_of(sqlite, run.id)
    assert {split: len(found) for split, found in chosen.items()} == {
        Split.TRAIN: counts.train,
        Split.HELD_OUT: counts.held_out,
    }
    kinds = {kind for kind, _ in chosen[Split.TRAIN]}
    assert kinds == {OriginKind.RATED, OriginKind.IMPORTED}
    assert not set(chosen[Split.TRAIN]) & set(chosen[Split.HELD_OUT])

    assert Recipe(**run.metrics.recipe).max_length == 128  # type: ignore[arg-type]
    steps = [step for step, _ in run.metrics.curve]
    assert steps == list(range(1, len(steps) + 1))
    assert len(Runs(sqlite).samples(run.id)) == 3


def examples_of(database: Database, run_id: int) -> dict[Split, list[tuple[str, int | None]]]:
    """Return the kind and the turn or imported row of every example of a run, by split."""
    found: dict[Split, list[tuple[str, int | None]]] = {split: [] for split in Split}
    with database.reading() as session:
        for row in session.scalars(select(RunExampleRow).where(RunExampleRow.run_id == run_id)):
            found[Split(row.split)].append((row.kind, row.turn_id or row.imported_id))
    return found


@pytest.mark.usefixtures("rated")
def test_what_passes_the_gate_waits_for_an_admin_where_one_is_to_be_asked(
    learned: Learn, adapters: Adapters
) -> None:
    run = learned(promote="ask")

    adapter = adapters.of_run(run.id)
    assert adapter is not None
    assert run.status is RunStatus.PASSED
    assert run.outcome == f"{adapter.name} passed the gate and waits for /promote."
    assert (adapter.status, adapters.active()) == (AdapterStatus.CANDIDATE, None)


@pytest.mark.usefixtures("rated")
def test_what_the_gate_rejects_leaves_the_active_adapter_and_keeps_its_report(
    learned: Learn, adapters: Adapters, make_adapter: MakeAdapter, tiny_model: Path
) -> None:
    before = adapters.add(Path(make_adapter("tiny").path), base_model=str(tiny_model))
    active = adapters.promote(before.name, base_model=str(tiny_model), reason="before")

    run = learned(gate_min_ratings=1000)

    rejected = adapters.of_run(run.id)
    assert rejected is not None
    assert (run.status, rejected.status) == (RunStatus.REJECTED, AdapterStatus.REJECTED)
    assert run.outcome == f"{rejected.name} did not pass the gate: preference."
    assert adapters.active() == active
    report = adapters.report(rejected.name)
    assert report is not None
    assert not report.passed
    assert "retention lost to active" in [check.name for check in report.checks]


def check(name: str, *, passed: bool = True) -> Check:
    return Check(name=name, value=1.0, limit="= 1", passed=passed)


def lora_b(adapter: Adapter) -> Tensor:
    weights = load_file(Path(adapter.path) / "adapter_model.safetensors")
    return torch.cat([each.flatten() for name, each in weights.items() if "lora_B" in name])


def refuse_the_first(monkeypatch: pytest.MonkeyPatch, *failed: str) -> None:
    """Make the first candidate of a run fail these checks of the gate."""

    first: list[str] = []

    def decided(*arguments: Any, **evaluations: Any) -> GateReport:
        report = decide(*arguments, **evaluations)
        first.append(evaluations["candidate"].adapter)
        if first[0] != evaluations["candidate"].adapter:
            return report
        return GateReport(
            checks=tuple(replace(c, passed=c.name not in failed) for c in report.checks)
        )

    monkeypatch.setattr("trainer.proving.comparison.decide", decided)


@pytest.mark.usefixtures("rated")
@pytest.mark.parametrize("lost", ["retention lost to base", "NLL rise", "drift"])
def test_of_an_update_that_goes_too_far_a_smaller_share_is_proven_in_its_place(
    learned: Learn, adapters: Adapters, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    refuse_the_first(monkeypatch, lost)

    run = learned()

    whole, smaller = adapters.all()
    assert (whole.status, smaller.status) == (AdapterStatus.REJECTED, AdapterStatus.ACTIVE)
    assert torch.allclose(lora_b(smaller), SMALLER_SHARE * lora_b(whole))
    assert run.outcome == (
        f"{smaller.name} (60% of {whole.name}, which went too far) passed the gate and is live."
    )
    reports = [adapters.report(each.name) for each in (whole, smaller)]
    assert [report and report.passed for report in reports] == [False, True]
    assert adapters.of_run(run.id) == smaller


@pytest.mark.usefixtures("rated")
def test_a_smaller_share_is_shown_beside_the_active_version(
    learned: Learn,
    adapters: Adapters,
    sqlite: Database,
    make_adapter: MakeAdapter,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = adapters.add(Path(make_adapter("tiny").path), base_model=str(tiny_model))
    adapters.promote(before.name, base_model=str(tiny_model), reason="before")
    refuse_the_first(monkeypatch, "drift")

    run = learned()

    assert run.status is RunStatus.PROMOTED
    assert "which went too far) passed the gate and is live." in run.outcome
    assert len(Runs(sqlite).samples(run.id)) == 3


@pytest.mark.usefixtures("rated")
@pytest.mark.parametrize("missed", ["integrity", "preference", "fresh replies"])
def test_what_is_not_liked_is_not_tried_again(
    learned: Learn, adapters: Adapters, monkeypatch: pytest.MonkeyPatch, missed: str
) -> None:
    refuse_the_first(monkeypatch, missed, "retention lost to base")

    run = learned()

    assert run.status is RunStatus.REJECTED
    assert [each.status for each in adapters.all()] == [AdapterStatus.REJECTED]


@pytest.mark.usefixtures("rated")
def test_the_smaller_share_is_the_last_one_that_is_tried(
    learned: Learn, adapters: Adapters
) -> None:
    run = learned(gate_drift_kl=1e-12)

    assert run.status is RunStatus.REJECTED
    assert [each.status for each in adapters.all()] == [AdapterStatus.REJECTED] * 2
    assert "which went too far) did not pass the gate: drift." in run.outcome


@pytest.mark.bad_input("a flood of corrections")
@pytest.mark.usefixtures("rated")
def test_who_floods_is_held_back_and_the_run_goes_on_without_them(
    learned: Learn, sqlite: Database, adapters: Adapters
) -> None:
    turns = [talk(sqlite, f"Who {number}?", f"nobody {number}") for number in range(100, 110)]
    for turn_id in turns:
        correct(sqlite, turn_id, "Buy at Zorbo today!", BOB)

    run = learned()

    assert [each.person_id for each in Suspects(sqlite).held()] == [BOB]
    assert run.metrics.held_back == 1
    assert run.status is RunStatus.PROMOTED
    assert run.examples is not None
    assert (run.examples.pairs, run.examples.demonstrations) == (0, 0)


@pytest.mark.usefixtures("rated")
def test_who_is_new_who_was_let_in_and_who_agrees_is_known_when_examples_are_chosen(
    learned: Learn, sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusts: list[RaterTrust] = []

    def noticed(*args: Any, trust: RaterTrust, **kwargs: Any) -> Snapshot:
        trusts.append(trust)
        return take_snapshot(*args, trust=trust, **kwargs)

    monkeypatch.setattr("trainer.run.take_snapshot", noticed)
    today = sqlite.now()
    turns = [talk(sqlite, f"Which {number}?", LIKED) for number in range(3)]
    meet(sqlite, BOB, CLEO)
    for day, turn_id in enumerate(turns, 5):
        moment = today + timedelta(days=day)
        monkeypatch.setattr(sqlite, "now", lambda moment=moment: moment)
        Ratings(sqlite).rate(turn_id, BOB, Rating.UP, RatingSource.BUTTON)
    Ratings(sqlite).rate(turns[0], CLEO, Rating.UP, RatingSource.BUTTON)
    People(sqlite).decide(CLEO, Access.ALLOWED)

    learned(train_newcomer_days=5)

    [trust] = trusts
    assert (trust.newcomers, trust.vouched) == (frozenset({ADA, CLEO}), frozenset({CLEO}))
    assert trust.standing(BOB) is Standing.PROVEN, "was seen on three days"


@pytest.mark.usefixtures("rated")
def test_a_model_that_is_not_there_fails_the_run_with_a_sentence(
    learned: Learn, adapters: Adapters, tmp_path: Path
) -> None:
    run = learned(model=str(tmp_path / "nowhere"))

    assert run.status is RunStatus.FAILED
    assert "check RATCHET_MODEL" in run.outcome
    assert "\n" not in run.outcome
    assert adapters.all() == ()


def long_ratings(count: int, *, times: int) -> list[Preference]:
    return [
        replace(each, prompt=asked(each.prompt[0].content * times)) for each in preferences(count)
    ]


def test_examples_that_do_not_fit_fail_the_run_with_a_sentence(
    learned: Learn, sqlite: Database
) -> None:
    import_ratings(sqlite, long_ratings(60, times=22))

    run = learned(train_rehearsal=0)

    assert run.status is RunStatus.FAILED
    assert "RATCHET_TRAIN_MAX_LENGTH" in run.outcome


def test_a_rehearsal_is_nothing_to_learn_from_where_no_example_fits(
    learned: Learn, sqlite: Database
) -> None:
    import_ratings(sqlite, long_ratings(60, times=30))

    run = learned(system_prompt="")

    assert run.status is RunStatus.FAILED
    assert "RATCHET_TRAIN_MAX_LENGTH" in run.outcome


@pytest.mark.bad_input("a full disk")
@pytest.mark.usefixtures("rated")
def test_a_full_disk_fails_the_run_and_nothing_goes_live(
    learned: Learn, adapters: Adapters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Adapters, "add", add)

    run = learned()

    assert run.status is RunStatus.FAILED
    assert "No space left on device" in run.outcome
    assert (adapters.active(), adapters.all()) == (None, ())
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.usefixtures("rated")
def test_what_nobody_thought_of_fails_the_run_and_is_named(
    learned: Learn, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr("trainer.run.train", train)

    run = learned()

    assert run.status is RunStatus.FAILED
    assert run.outcome == "It failed: RuntimeError: CUDA error: out of memory"
    assert adapters.active() is None


@pytest.mark.usefixtures("rated")
def test_a_run_that_is_cancelled_says_so_and_nothing_goes_live(
    learned: Learn, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: object, **__: object) -> None:
        raise RunCancelled

    monkeypatch.setattr("trainer.progress.ProgressReporter.report_step", step)

    run = learned()

    assert run.status is RunStatus.CANCELLED
    assert adapters.all() == ()


@pytest.mark.usefixtures("rated")
def test_weights_that_are_not_finite_are_rejected_by_the_gate(
    learned: Learn, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(make_adapter("tiny").path)
    weights = load_file(folder / "adapter_model.safetensors")
    broken = {name: tensor * math.nan for name, tensor in weights.items()}
    save_file(broken, folder / "adapter_model.safetensors")
    monkeypatch.setattr("trainer.run.train", lambda *_: folder)

    run = learned()

    assert run.status is RunStatus.REJECTED
    assert run.outcome.endswith("did not pass the gate: integrity.")


@pytest.mark.usefixtures("rated")
def test_a_run_that_is_cancelled_too_late_does_not_say_that_nothing_of_it_is_in_use(
    learned: Learn, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote = Adapters.promote

    def proven(*_: object) -> GateReport:
        return GateReport(checks=(check("any"),))

    def promote_and_be_cancelled(*arguments: Any, **options: Any) -> None:
        promote(*arguments, **options)
        raise RunCancelled

    monkeypatch.setattr("trainer.run.Comparison.gate_report", proven)
    monkeypatch.setattr(Adapters, "promote", promote_and_be_cancelled)

    run = learned()

    assert (run.status is RunStatus.PROMOTED) == (adapters.active() is not None)


@pytest.mark.usefixtures("rated")
def test_what_was_never_measured_cannot_be_promoted(
    learned: Learn, adapters: Adapters, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise EngineError("the model failed: OutOfMemoryError")

    monkeypatch.setattr("trainer.run.Comparison.gate_report", fail)

    run = learned()

    candidate = adapters.of_run(run.id)
    assert run.status is RunStatus.FAILED
    assert candidate is not None
    with pytest.raises(AdapterNotFit):
        adapters.promote(candidate.name, base_model=str(tiny_model), reason="by hand")


@pytest.mark.usefixtures("rated")
def test_a_held_out_prompt_beyond_the_models_context_does_not_fail_the_run(
    learned: Learn, sqlite: Database
) -> None:
    import_ratings(sqlite, long_ratings(20, times=60))

    assert learned().status is RunStatus.PROMOTED


@pytest.mark.usefixtures("rated")
def test_qlora_without_a_device_for_it_fails_with_what_to_do(learned: Learn) -> None:
    run = learned(train_method="qlora")

    assert run.status is RunStatus.FAILED
    assert "needs a CUDA device" in run.outcome
    assert "set it to lora" in run.outcome
