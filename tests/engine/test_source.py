"""Where a model's files are: a folder, or one version of a model of the Hub, without code."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from bot.engine.errors import ModelNotFound
from bot.engine.source import TEXTS, WEIGHTS, hub_id, model_name, model_source


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Return what is asked of the Hub, which has every model."""
    asked: list[dict[str, Any]] = []

    def download(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_one_version_of_a_hubs_model_is_fetched_and_no_file_that_could_run_code(
    fetched: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert model_source("org/name@4f2a", tmp_path) == tmp_path

    [asked] = fetched
    assert (asked["name"], asked["revision"]) == ("org/name", "4f2a")
    assert set(asked["allow_patterns"]) == {*TEXTS, WEIGHTS}
    assert not any(each.endswith((".bin", ".pt", ".py")) for each in asked["allow_patterns"])


def test_whoever_needs_no_weights_fetches_none(
    fetched: list[dict[str, Any]], tmp_path: Path
) -> None:
    model_source("org/name", tmp_path, weights=False)

    assert WEIGHTS not in fetched[0]["allow_patterns"]
    assert fetched[0]["revision"] is None


def test_adapters_of_one_version_are_not_those_of_another() -> None:
    assert model_name("org/name@4f2a") != model_name("org/name@9c1b")
    assert hub_id("org/name@4f2a") == ("org/name", "4f2a")
    assert hub_id("org/name") == ("org/name", None)


def test_a_folder_is_taken_as_it_is(
    tiny_model: Path, fetched: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert model_source(str(tiny_model), tmp_path) == tiny_model
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        model_source(str(tmp_path), tmp_path)
    assert fetched == []
