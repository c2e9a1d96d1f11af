"""A recipe holds every setting that the adapter depends on, and survives being written down."""

import json
from dataclasses import MISSING, fields

import pytest

from store.settings_slices import TrainSettings
from tests.trainer.examples import recipe, settings
from trainer.recipe import Recipe

NOT_HOW = {"cron", "min_ratings", "processes", "newcomer_days"}
"""Settings of when, where and on whose ratings to train, which no recipe holds."""


def test_a_recipe_is_what_the_settings_ask_for() -> None:
    asked = Recipe.of(
        settings(train_objective="sft", train_rank=5, train_learning_rate=0.25, train_seed=9).train
    )

    assert (asked.objective, asked.rank, asked.learning_rate, asked.seed) == ("sft", 5, 0.25, 9)


def test_every_setting_of_how_to_train_is_in_the_recipe() -> None:
    asked = set(TrainSettings.model_fields)

    assert {each.name for each in fields(Recipe) if each.default is MISSING} == asked - NOT_HOW


def test_a_recipe_that_was_written_as_json_is_read_as_it_was() -> None:
    written = json.dumps(recipe(seed=3, epochs=0.5, targets="q_proj,v_proj").as_dict())

    assert Recipe(**json.loads(written)) == recipe(seed=3, epochs=0.5, targets="q_proj,v_proj")


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        recipe().seed = 1  # type: ignore[misc]
