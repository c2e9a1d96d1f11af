"""Several processes, started by accelerate launch, make one adapter together."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from store.domain import ExampleSet
from store.settings import load_settings
from tests.trainer.examples import rated
from trainer.examples.dataset import Snapshot
from trainer.recipe import Recipe
from trainer.tuning.checkpoints import Point
from trainer.tuning.launch import Job, predictor_for, train

SNAPSHOT = Snapshot(
    train=ExampleSet(
        unpaired=tuple(
            rated(number, number % 2 == 1, reply="because" if number % 2 else "no idea")
            for number in range(1, 17)
        )
    ),
    held_out=ExampleSet(),
)


def test_two_processes_train_one_adapter(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"DATA_DIR": tmp_path, "MODEL": tiny_model, "DEVICE": "cpu", "TRAIN_PROCESSES": 2}
    recipe = {"BATCH_SIZE": 4, "EPOCHS": 2, "REHEARSAL": 4}
    for name, value in {**chosen, **{f"TRAIN_{key}": of for key, of in recipe.items()}}.items():
        monkeypatch.setenv(f"RATCHET_{name}", str(value))
    settings = load_settings()
    points: list[Point] = []

    job = Job(
        snapshot=SNAPSHOT, recipe=replace(Recipe.of(settings.train), checkpoints=1), folder=tmp_path
    )
    predictor = predictor_for(settings.retrieval.embedder, SNAPSHOT)
    folder = train(settings, job, predictor, points.append)

    assert [point.step for point in points] == [1, 2, 3, 4], "half of the steps that one would take"
    weights = load_file(folder / "adapter_model.safetensors")
    assert any(bool(each.any()) for name, each in weights.items() if "lora_B" in name)
