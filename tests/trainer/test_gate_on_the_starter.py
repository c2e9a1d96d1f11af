"""The gate on the embedded model: it refuses ruined or ignorant adapters, and passes good ones.

The ruined recipes are those that thumbs alone invite: a high learning rate, or a second epoch, with
a weak pull to the base and nothing rehearsed. They please the audience best of all.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from peft import PeftModel

from benchmarks.learn import collect, rate
from bot.engine.local import LocalEngine, Weights, load_weights
from bot.engine.starter import starter_folder
from examples.audience import PERSONAS, SETTINGS, SYSTEM_PROMPT
from store.adapters import hash_adapter
from store.domain import Example, ExampleSet, GateReport
from store.settings import Settings
from tests.trainer.examples import candidate, settings
from trainer.examples.dataset import Snapshot
from trainer.proving.evaluation import Evaluation
from trainer.proving.evaluator import Evaluator
from trainer.proving.gate import HeldOut, decide
from trainer.recipe import Recipe
from trainer.tuning.checkpoints import Verdict
from trainer.tuning.finetune import finetune
from trainer.tuning.launch import Job, carry_out, predictor_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

RATED, HELD_OUT = 400, 80
TASTE = PERSONAS["patient"]


def loaded(models: Path) -> Weights:
    return load_weights("starter", models_folder=models, device="cpu")


class Trial:
    """Ratings of one taste, and the gate over adapters trained on them."""

    def __init__(self, home: Path) -> None:
        starter_folder(home / "models")
        self.settings: Settings = settings(data_dir=home, **SETTINGS)
        weights = loaded(home / "models")
        rated = rate(TASTE, collect(weights, RATED)).unpaired
        held_out = tuple(replace(each, held_out=True) for each in rated[-HELD_OUT:])
        self.train = rated[:-HELD_OUT]
        self.held_out = ExampleSet(unpaired=held_out)
        self._base: Evaluation | None = None

    def judged(self, folder: Path) -> GateReport:
        """Return the gate's report on an adapter."""
        return asyncio.run(self._judged(folder))

    async def _judged(self, folder: Path) -> GateReport:
        weights = loaded(self.settings.storage.models_path)
        engine = LocalEngine(weights, queue_size=1000, batch_size=64)
        evaluator = Evaluator(
            weights=weights,
            engine=engine,
            predictor=predictor_for(
                self.settings.retrieval.embedder,
                Snapshot(train=ExampleSet(unpaired=self.train), held_out=self.held_out),
            ),
            held_out=self.held_out,
            system_prompt=SYSTEM_PROMPT,
        )
        self._base = self._base or (await evaluator.evaluate(None))[0]
        measured, _ = await evaluator.evaluate(candidate(folder, weights.name))
        await engine.close()
        labels = tuple(each.label for each in self.held_out.unpaired)
        return decide(
            self.settings.gate,
            HeldOut(labels=labels, raters=((),) * len(labels), pair_raters=()),
            candidate=measured,
            active=self._base,
            base=self._base,
        )

    def trained(self, train: tuple[Example, ...], folder: Path) -> Path:
        """Train by the recipe of the settings, with judged checkpoints, as a run does."""
        snapshot = Snapshot(train=ExampleSet(unpaired=train), held_out=self.held_out)
        job = Job(snapshot=snapshot, recipe=Recipe.of(self.settings.train), folder=folder)
        predictor = predictor_for(self.settings.retrieval.embedder, snapshot)
        return carry_out(self.settings, job, predictor, lambda _: None)

    def trained_unguarded(self, train: tuple[Example, ...], folder: Path, **changes: float) -> Path:
        """Train by a recipe to its end, without a judge and without rehearsal."""
        recipe = replace(Recipe.of(self.settings.train), checkpoints=1, **changes)  # type: ignore[arg-type]
        return finetune(
            loaded(self.settings.storage.models_path),
            ExampleSet(unpaired=train),
            recipe,
            folder,
            report=lambda _: None,
            judge=_anything_goes,
        )


def _anything_goes(_model: PeftModel) -> Verdict:
    return Verdict(score=0.0, budget_used=1.0)  # and leaves no room


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return Trial(tmp_path_factory.mktemp("home"))


@pytest.fixture
def failed(trial: Trial) -> Callable[[Path], list[str]]:
    """Return a function that names the checks that an adapter fails."""

    def names(folder: Path) -> list[str]:
        return [each.name for each in trial.judged(folder).checks if not each.passed]

    return names


def flipped(train: tuple[Example, ...]) -> tuple[Example, ...]:
    return tuple(replace(each, label=not each.label) for each in train)


def shuffled(train: tuple[Example, ...]) -> tuple[Example, ...]:
    labels = [each.label for each in train]
    random.Random(0).shuffle(labels)
    return tuple(replace(each, label=label) for each, label in zip(train, labels, strict=True))


def test_the_recipe_of_the_settings_passes(
    trial: Trial, failed: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    assert failed(trial.trained(trial.train, tmp_path)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 5e-4, "epochs": 1.0, "beta": 0.1, "layers": 1.0},
        {"learning_rate": 2e-4, "epochs": 2.0, "beta": 0.1, "layers": 1.0},
    ],
    ids=["a high learning rate", "a second epoch"],
)
def test_a_ruined_model_is_refused_for_what_it_lost(
    trial: Trial,
    failed: Callable[[Path], list[str]],
    tmp_path: Path,
    changes: dict[str, float],
) -> None:
    names = failed(trial.trained_unguarded(trial.train, tmp_path, **changes))

    assert {"retention lost to base", "NLL rise", "drift"} & set(names)
    assert "preference" not in names, "it is ruined, not ignorant"


def test_flipped_labels_are_refused(
    trial: Trial, failed: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    assert "preference" in failed(trial.trained(flipped(trial.train), tmp_path))


def test_noise_is_refused(
    trial: Trial, failed: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    assert "preference" in failed(trial.trained(shuffled(trial.train), tmp_path))


def test_the_same_ratings_recipe_and_seed_make_the_same_adapter(
    trial: Trial, tmp_path: Path
) -> None:
    folders = [
        trial.trained_unguarded(trial.train[:48], tmp_path / str(number)) for number in range(2)
    ]

    assert len({hash_adapter(folder) for folder in folders}) == 1
