"""Training makes an adapter that serves, the same one each time, and leaves the base as it was."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from bot.engine.base import Completion, SamplingParams
from bot.engine.local import LocalEngine, Weights, load_weights
from store.adapters import hash_adapter
from store.domain import Example, ExampleSet
from tests.trainer.examples import asked, candidate, demonstration, pair, rated, recipe
from trainer.errors import RunCancelled, TrainingFailed
from trainer.recipe import Recipe
from trainer.tuning.checkpoints import (
    SMALLER_SHARES,
    STOP_ABOVE,
    TARGET_BUDGET_USE,
    Judge,
    Point,
    Report,
    Verdict,
)
from trainer.tuning.finetune import finetune

REPOSITORY = Path(__file__).parents[2]

QUICK = recipe(
    rank=4, alpha=8, learning_rate=1e-2, epochs=2, batch_size=4, max_length=128, checkpoints=2
)

ROOMY, WITHIN, BEYOND, OVER = 0.4, 0.9, 1.5, 2 * STOP_ABOVE
"""Budget uses: one that leaves room, one that is fine, one beyond the budget, one far beyond it."""

LIKED, DISLIKED = "because", "no idea"

RATED = tuple(
    rated(number, number % 2 == 1, reply=LIKED if number % 2 else DISLIKED)
    for number in range(1, 13)
)
PAIRS = tuple(pair(number, chosen=LIKED, rejected=DISLIKED) for number in range(1, 9))
SHOWN = tuple(demonstration(number, reply=LIKED) for number in range(1, 9))

KINDS = {
    "kto": ExampleSet(unpaired=RATED),
    "dpo": ExampleSet(pairs=PAIRS),
    "sft": ExampleSet(demonstrations=SHOWN),
    "all": ExampleSet(unpaired=RATED, pairs=PAIRS, demonstrations=SHOWN),
}


def content(_model: PeftModel) -> Verdict:
    return Verdict(score=0.0, budget_used=WITHIN)


def unheard(_point: Point) -> None:
    pass


def loaded(model: Path) -> Weights:
    return load_weights(str(model), models_folder=model, device="cpu", dtype=torch.float32)


def finetuned(
    weights: Weights,
    train: ExampleSet,
    folder: Path,
    *,
    how: Recipe = QUICK,
    report: Report = unheard,
    judge: Judge = content,
) -> Path:
    return finetune(weights, train, how, folder, report=report, judge=judge)


def log_probability(
    weights: Weights, question: str, ids: list[int], adapter: Path | None = None
) -> float:
    """Return the log-probability of a reply's ids, by the base or with an adapter."""
    prompt = weights.template.encode(asked(question))
    model = weights.model if adapter is None else PeftModel.from_pretrained(weights.model, adapter)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    if isinstance(model, PeftModel):
        model.unload()
    return float(logits.log_softmax(dim=-1)[range(len(ids)), ids].sum())


def gain(weights: Weights, reply: str, adapter: Path) -> float:
    """Return by how much an adapter raises a reply's log-probability after a trained question."""
    ids = weights.template.encode_reply(reply)
    return log_probability(weights, "question 3", ids, adapter) - log_probability(
        weights, "question 3", ids
    )


def learned(model: PeftModel) -> dict[str, Tensor]:
    """Return the trained weights of a model, by the names that PEFT saves them under."""
    return {
        name.replace(".default.", "."): each.detach().clone()
        for name, each in model.named_parameters()
        if each.requires_grad
    }


def is_as_written(tensors: dict[str, Tensor], folder: Path) -> bool:
    written = load_file(folder / "adapter_model.safetensors")
    return written.keys() == tensors.keys() and all(
        torch.equal(written[name], tensors[name]) for name in written
    )


class Judging:
    """A judge that takes its verdicts from a list, and remembers the weights that it saw."""

    def __init__(self, verdicts: Iterable[tuple[float, float]]) -> None:
        self._verdicts = iter(verdicts)
        self.seen: list[dict[str, Tensor]] = []

    def __call__(self, model: PeftModel) -> Verdict:
        score, budget_used = next(self._verdicts)
        self.seen.append(learned(model))
        return Verdict(score=score, budget_used=budget_used)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Results of a training, and what was reported of it."""

    adapter: Path
    points: tuple[Point, ...]
    weights: Weights
    """The trained model, the adapter taken off again."""


@pytest.fixture(scope="module")
def train_once(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Trained]:
    """Return a function that trains on a kind of examples, each kind once."""

    @cache
    def train(kind: str) -> Trained:
        folder = tmp_path_factory.mktemp(kind)
        weights = loaded(tiny_model)
        points: list[Point] = []
        adapter = finetuned(weights, KINDS[kind], folder, report=points.append)
        return Trained(adapter=adapter, points=tuple(points), weights=weights)

    return train


@pytest.fixture(params=KINDS)
def trained(request: pytest.FixtureRequest, train_once: Callable[[str], Trained]) -> Trained:
    """Return a training on each kind of examples, and on all of them."""
    return train_once(request.param)


@pytest.fixture
def trained_on_all(train_once: Callable[[str], Trained]) -> Trained:
    return train_once("all")


def test_an_adapter_with_its_recipe_is_written(trained: Trained) -> None:
    assert (trained.adapter / "adapter_model.safetensors").is_file()
    assert Recipe(**json.loads((trained.adapter / "recipe.json").read_text())) == QUICK
    config = json.loads((trained.adapter / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (QUICK.rank, QUICK.alpha)
    assert config["base_model_name_or_path"] == trained.weights.name


async def test_the_engine_serves_what_was_trained(trained: Trained, tiny_weights: Weights) -> None:
    adapter = candidate(trained.adapter, tiny_weights.name)
    engine = LocalEngine(tiny_weights)

    await engine.load_adapter(adapter)
    async with aclosing(
        engine.stream(asked("Why?"), SamplingParams(max_new_tokens=4), adapter=adapter.name)
    ) as pieces:
        last = [piece async for piece in pieces][-1]
    await engine.close()

    assert isinstance(last, Completion)
    assert last.adapter == adapter.name


def test_the_loss_of_every_stage_falls(trained: Trained) -> None:
    for stage in {point.stage for point in trained.points}:
        losses = [point.loss for point in trained.points if point.stage == stage]
        half = len(losses) // 2
        assert sum(losses[-half:]) < sum(losses[:half])


def test_what_people_like_becomes_likelier(trained: Trained) -> None:
    liked, disliked = (gain(trained.weights, reply, trained.adapter) for reply in (LIKED, DISLIKED))

    assert liked > 0
    assert liked > disliked


def test_nothing_but_the_adapter_is_left_behind(trained: Trained) -> None:
    assert list(trained.adapter.parent.iterdir()) == [trained.adapter]


def test_the_base_is_untouched_afterwards(trained: Trained, tiny_weights: Weights) -> None:
    fresh, after = tiny_weights.model.state_dict(), trained.weights.model.state_dict()
    ids = tiny_weights.template.encode_reply(LIKED)

    assert after.keys() == fresh.keys()
    assert all(torch.equal(after[name], fresh[name]) for name in fresh)
    assert log_probability(trained.weights, "Why?", ids) == log_probability(
        tiny_weights, "Why?", ids
    )


def test_every_kind_of_example_has_its_stage(trained_on_all: Trained) -> None:
    assert {point.stage for point in trained_on_all.points} == {"sft", "dpo", "kto"}


def test_every_step_is_reported(trained: Trained) -> None:
    steps = trained.points[-1].steps

    assert [point.step for point in trained.points] == list(range(1, steps + 1))
    assert {point.steps for point in trained.points} == {steps}


def test_every_example_is_seen_as_often_as_the_recipe_says(
    train_once: Callable[[str], Trained],
) -> None:
    assert len(train_once("kto").points) == len(RATED) * QUICK.epochs / QUICK.batch_size


def test_the_same_examples_recipe_and_seed_give_the_same_adapter(
    trained_on_all: Trained, tiny_weights: Weights, tmp_path: Path
) -> None:
    again = finetuned(tiny_weights, KINDS["all"], tmp_path)

    assert hash_adapter(again) == hash_adapter(trained_on_all.adapter)


def test_weights_that_were_trained_on_before_make_the_same_adapter(
    trained_on_all: Trained, train_once: Callable[[str], Trained], tmp_path: Path
) -> None:
    again = finetuned(trained_on_all.weights, KINDS["dpo"], tmp_path)

    assert hash_adapter(again) == hash_adapter(train_once("dpo").adapter)


def test_another_process_makes_the_same_adapter(
    trained_on_all: Trained, tiny_model: Path, tmp_path: Path
) -> None:
    elsewhere = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"

    there = subprocess.run(
        [sys.executable, "-m", "tests.trainer.test_finetune", tiny_model, tmp_path],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONHASHSEED": elsewhere},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert there.stdout.splitlines()[-1] == hash_adapter(trained_on_all.adapter)


def test_another_seed_gives_another_adapter(
    train_once: Callable[[str], Trained], tiny_weights: Weights, tmp_path: Path
) -> None:
    other = finetuned(tiny_weights, KINDS["sft"], tmp_path, how=replace(QUICK, seed=1))

    assert hash_adapter(other) != hash_adapter(train_once("sft").adapter)


def test_a_report_may_stop_the_training(tiny_weights: Weights, tmp_path: Path) -> None:
    points: list[Point] = []

    def report(point: Point) -> None:
        points.append(point)
        if point.step == 2:
            raise RunCancelled

    with pytest.raises(RunCancelled):
        finetuned(tiny_weights, KINDS["kto"], tmp_path, report=report)

    assert len(points) == 2
    assert not (tmp_path / "adapter").exists()


def test_the_adapter_is_judged_as_often_as_the_recipe_says(
    tiny_weights: Weights, tmp_path: Path
) -> None:
    judge = Judging([(0.0, WITHIN)] * 3)

    finetuned(tiny_weights, KINDS["kto"], tmp_path, how=replace(QUICK, checkpoints=3), judge=judge)

    assert len(judge.seen) == 3


def test_the_finished_adapter_is_judged_too(tiny_weights: Weights, tmp_path: Path) -> None:
    judge = Judging([(0.0, WITHIN), (1.0, WITHIN)])

    folder = finetuned(tiny_weights, KINDS["all"], tmp_path, judge=judge)

    assert [is_as_written(seen, folder) for seen in judge.seen] == [False, True]


def test_of_checkpoints_that_score_alike_the_later_wins(
    tiny_weights: Weights, tmp_path: Path
) -> None:
    judge = Judging([(1.0, WITHIN), (0.99, WITHIN)])

    folder = finetuned(tiny_weights, KINDS["kto"], tmp_path, judge=judge)

    assert [is_as_written(seen, folder) for seen in judge.seen] == [False, True]


def test_an_update_that_is_walked_back_counts_less(tiny_weights: Weights, tmp_path: Path) -> None:
    judge = Judging([(1.0, BEYOND), (1.0, BEYOND), (1.0, WITHIN)])

    finetuned(tiny_weights, KINDS["kto"], tmp_path, judge=judge)

    whole, less = judge.seen[1:]
    for name in whole:
        share = SMALLER_SHARES[0] if "lora_B" in name else 1.0
        torch.testing.assert_close(less[name], whole[name] * share)


def test_an_end_that_leaves_room_is_followed_further(tiny_weights: Weights, tmp_path: Path) -> None:
    judge = Judging([(1.0, ROOMY), (1.0, ROOMY), (1.0, WITHIN)])

    folder = finetuned(tiny_weights, KINDS["kto"], tmp_path, judge=judge)

    end, beyond = judge.seen[1:]
    for name in end:
        share = math.sqrt(TARGET_BUDGET_USE / ROOMY) if "lora_B" in name else 1.0
        torch.testing.assert_close(beyond[name], end[name] * share)
    assert is_as_written(beyond, folder)


@pytest.mark.parametrize("found", [(9.0, BEYOND), (0.5, WITHIN)], ids=["too far", "liked less"])
def test_an_end_is_kept_where_further_on_is_worse(
    tiny_weights: Weights, tmp_path: Path, found: tuple[float, float]
) -> None:
    judge = Judging([(1.0, ROOMY), (1.0, ROOMY), found])

    folder = finetuned(tiny_weights, KINDS["kto"], tmp_path, judge=judge)

    assert [is_as_written(seen, folder) for seen in judge.seen] == [False, True, False]


def test_an_end_that_is_not_the_best_is_not_followed(tiny_weights: Weights, tmp_path: Path) -> None:
    judge = Judging([(3.0, ROOMY), (1.0, ROOMY)])

    folder = finetuned(tiny_weights, KINDS["kto"], tmp_path, judge=judge)

    assert [is_as_written(seen, folder) for seen in judge.seen] == [True, False]


def test_the_best_checkpoint_within_the_limits_wins(tiny_weights: Weights, tmp_path: Path) -> None:
    judge = Judging([(1.0, WITHIN), (3.0, WITHIN), (2.0, WITHIN)])

    folder = finetuned(
        tiny_weights, KINDS["kto"], tmp_path, how=replace(QUICK, checkpoints=3), judge=judge
    )

    assert [is_as_written(seen, folder) for seen in judge.seen] == [False, True, False]


def test_training_stops_at_a_checkpoint_far_beyond_the_budget(
    tiny_weights: Weights, tmp_path: Path
) -> None:
    judge = Judging([(1.0, WITHIN), (9.0, OVER), (0.5, WITHIN)])
    points: list[Point] = []

    folder = finetuned(
        tiny_weights,
        KINDS["kto"],
        tmp_path,
        how=replace(QUICK, checkpoints=3),
        judge=judge,
        report=points.append,
    )

    assert [point.step for point in points] == [1, 2, 3, 4]
    assert [is_as_written(seen, folder) for seen in judge.seen] == [True, False, False]


def test_a_checkpoint_that_strayed_may_come_back(tiny_weights: Weights, tmp_path: Path) -> None:
    judge = Judging([(9.0, BEYOND), (1.0, WITHIN)])
    points: list[Point] = []

    folder = finetuned(tiny_weights, KINDS["kto"], tmp_path, judge=judge, report=points.append)

    assert points[-1].step == points[-1].steps
    assert [is_as_written(seen, folder) for seen in judge.seen] == [False, True]


def test_an_end_beyond_the_limits_is_walked_back_and_the_best_of_all_wins(
    tiny_weights: Weights, tmp_path: Path
) -> None:
    judge = Judging([(1.0, WITHIN), (9.0, BEYOND), (2.0, WITHIN)])

    folder = finetuned(tiny_weights, KINDS["kto"], tmp_path, judge=judge)

    assert [is_as_written(seen, folder) for seen in judge.seen] == [False, False, True]


def test_what_is_beyond_the_limits_is_walked_back_until_it_is_within(
    tiny_weights: Weights, tmp_path: Path
) -> None:
    judge = Judging([(1.0, OVER), (1.0, OVER), (1.0, WITHIN)])

    folder = finetuned(
        tiny_weights, KINDS["kto"], tmp_path, how=replace(QUICK, checkpoints=1), judge=judge
    )

    assert [is_as_written(seen, folder) for seen in judge.seen] == [False, False, True]


def test_of_what_no_way_back_brings_within_the_limits_the_least_is_left_to_the_gate(
    tiny_weights: Weights, tmp_path: Path
) -> None:
    judge = Judging([(1.0, OVER)] * (1 + len(SMALLER_SHARES)))

    folder = finetuned(
        tiny_weights, KINDS["kto"], tmp_path, how=replace(QUICK, checkpoints=1), judge=judge
    )

    written = [is_as_written(seen, folder) for seen in judge.seen]
    assert written == [False] * len(SMALLER_SHARES) + [True]


def test_no_stage_follows_a_checkpoint_far_beyond_the_budget(
    tiny_weights: Weights, tmp_path: Path
) -> None:
    points: list[Point] = []

    finetuned(
        tiny_weights,
        KINDS["all"],
        tmp_path,
        how=replace(QUICK, checkpoints=14),
        judge=Judging([(1.0, WITHIN), (1.0, OVER), (0.0, WITHIN)]),
        report=points.append,
    )

    assert len(points) == 2


def too_long(number: int) -> Example:
    return rated(number, question="why " * 100)


def test_examples_that_are_too_long_are_left_out(
    train_once: Callable[[str], Trained], tiny_weights: Weights, tmp_path: Path
) -> None:
    some_long = ExampleSet(unpaired=(too_long(20), *RATED, too_long(21)))

    folder = finetuned(tiny_weights, some_long, tmp_path)

    assert hash_adapter(folder) == hash_adapter(train_once("kto").adapter)


@pytest.mark.parametrize(
    "train",
    [
        ExampleSet(unpaired=(too_long(1), too_long(2))),
        ExampleSet(pairs=(pair(1, rejected="no " * 100),)),
        ExampleSet(pairs=(pair(1, chosen="yes " * 100),)),
        ExampleSet(demonstrations=(demonstration(1, reply="yes " * 100),)),
    ],
    ids=["rated", "rejected", "chosen", "demonstrated"],
)
def test_examples_that_are_all_too_long_are_a_failure_that_says_so(
    tiny_weights: Weights, tmp_path: Path, train: ExampleSet
) -> None:
    with pytest.raises(TrainingFailed, match=r"longer than 128 tokens.*TRAIN_MAX_LENGTH"):
        finetuned(tiny_weights, train, tmp_path)


@pytest.mark.bad_input("replies longer than the context")
def test_what_is_longer_than_the_models_context_is_left_out(
    train_once: Callable[[str], Trained], tiny_weights: Weights, tmp_path: Path
) -> None:
    some_long = ExampleSet(unpaired=(too_long(20), *RATED, too_long(21)))
    small = replace(tiny_weights, context_tokens=128)

    folder = finetuned(small, some_long, tmp_path, how=replace(QUICK, max_length=10_000))

    assert hash_adapter(folder) == hash_adapter(train_once("kto").adapter)


def test_thumbs_of_which_one_kind_is_too_long_leave_the_rest_to_learn_from(
    tiny_weights: Weights, tmp_path: Path
) -> None:
    liked = [each for each in RATED if each.label]
    one_sided = ExampleSet(unpaired=(*liked, too_long(20)), demonstrations=(demonstration(1),))

    assert finetuned(tiny_weights, one_sided, tmp_path).is_dir()


def test_a_small_share_of_an_epoch_is_a_step_at_least(
    tiny_weights: Weights, tmp_path: Path
) -> None:
    folder = finetuned(tiny_weights, KINDS["kto"], tmp_path, how=replace(QUICK, epochs=0.1))

    assert (folder / "adapter_model.safetensors").is_file()


def test_steps_are_never_more_than_were_promised(tiny_weights: Weights, tmp_path: Path) -> None:
    points: list[Point] = []
    train = ExampleSet(unpaired=RATED, demonstrations=SHOWN[:1])

    finetuned(tiny_weights, train, tmp_path, how=replace(QUICK, epochs=0.4), report=points.append)

    assert all(point.step <= point.steps for point in points)


def test_targets_that_the_model_does_not_have_are_a_failure_that_says_so(
    tiny_weights: Weights, tmp_path: Path
) -> None:
    with pytest.raises(TrainingFailed, match="targets do not fit"):
        finetuned(
            tiny_weights, KINDS["kto"], tmp_path, how=replace(QUICK, targets="wq,no_such_module")
        )


def test_only_the_modules_that_are_named_are_adapted(tiny_weights: Weights, tmp_path: Path) -> None:
    how = replace(QUICK, targets="q_proj,v_proj")

    folder = finetuned(tiny_weights, KINDS["kto"], tmp_path, how=how)

    names = load_file(folder / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in names} == {"q_proj", "v_proj"}


@pytest.mark.parametrize(("share", "adapted"), [(1.0, {0, 1}), (0.5, {1}), (0.01, {1})])
def test_the_last_layers_are_adapted_one_at_least(
    tiny_weights: Weights, tmp_path: Path, share: float, adapted: set[int]
) -> None:
    how = replace(QUICK, layers=share)

    folder = finetuned(tiny_weights, KINDS["kto"], tmp_path, how=how)

    names = load_file(folder / "adapter_model.safetensors")
    assert {int(name.split(".layers.")[1].split(".")[0]) for name in names} == adapted
    assert {name.split(".")[-3] for name in names} == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }


def test_a_reply_that_was_cut_does_not_teach_when_to_stop(
    tiny_weights: Weights, tmp_path: Path
) -> None:
    ids = tiny_weights.template.encode_reply(LIKED)
    # It pads too, and the embedding of a padding is 0: it could not become likelier.
    torch.manual_seed(0)
    tiny_weights.model.state_dict()["model.embed_tokens.weight"][ids[-1]].normal_(std=0.02)

    def end(adapter: Path | None = None) -> float:
        """Return the log-probability that the liked reply ends where it does."""
        whole, cut = (
            log_probability(tiny_weights, "question 3", part, adapter) for part in (ids, ids[:-1])
        )
        return whole - cut

    def taught(*, finished: bool) -> float:
        """Return how training on liked replies, ended or cut, changes `end`."""
        rows = tuple(replace(each, finished=finished and each.label) for each in RATED)
        folder = tmp_path / str(finished)
        how = replace(QUICK, epochs=6, layers=1.0)
        return end(finetuned(tiny_weights, ExampleSet(unpaired=rows), folder, how=how)) - end()

    assert taught(finished=False) < 0 < taught(finished=True)


def _make(model: str, folder: str) -> None:
    adapter = finetuned(loaded(Path(model)), KINDS["all"], Path(folder))
    print(hash_adapter(adapter))  # noqa: T201


if __name__ == "__main__":
    _make(*sys.argv[1:])
