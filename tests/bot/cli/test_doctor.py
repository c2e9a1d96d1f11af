"""Checks of `ratchet doctor`, where there is something to find."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from bot.app import make_index
from bot.cli.doctor import Finding, examine
from store.adapters import Adapters
from store.database import Database
from store.settings import Settings, make_settings
from tests.conftest import MakeAdapter

Examined = Callable[[], dict[str, Finding]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = make_settings(data_dir=tmp_path, telegram_token="42:secret")
    database = Database(settings.storage.database)
    database.upgrade()
    database.close()
    return settings


@pytest.fixture
def examined(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Examined:
    """Return the findings by name; Telegram's clock is right unless a test says otherwise."""
    monkeypatch.setattr("bot.cli.doctor.httpx.get", told_at(datetime.now(UTC)))
    return lambda: {each.name: each for each in examine(settings, make_index(settings))}


def told_at(moment: datetime) -> Callable[..., httpx.Response]:
    """Return a stand-in for Telegram whose clock shows `moment`."""
    body = {"ok": True, "result": {"username": "ratchet_bot"}}
    headers = {"Date": format_datetime(moment, usegmt=True)}
    return lambda *_, **__: httpx.Response(200, json=body, headers=headers)


def test_whole_versions_and_a_right_clock_are_fine(
    settings: Settings, examined: Examined, make_adapter: MakeAdapter
) -> None:
    database = Database(settings.storage.database)
    Adapters(database, settings.storage.adapters_path).add(
        Path(make_adapter("fake").path), base_model="fake"
    )
    database.close()

    found = examined()

    assert (found["adapters"].fine, found["adapters"].detail[0]) == (True, "1")
    assert found["telegram"].detail == "@ratchet_bot, clock right"


def test_a_version_whose_files_were_changed_is_named(
    settings: Settings, examined: Examined, make_adapter: MakeAdapter
) -> None:
    database = Database(settings.storage.database)
    made = Adapters(database, settings.storage.adapters_path).add(
        Path(make_adapter("fake").path), base_model="fake"
    )
    database.close()
    (Path(made.path) / "adapter_model.safetensors").write_bytes(b"else")

    found = examined()["adapters"]

    assert not found.fine
    assert made.name in found.detail


def test_a_clock_that_is_wrong_is_said_to_be(
    examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    monkeypatch.setattr("bot.cli.doctor.httpx.get", told_at(an_hour_ago))

    found = examined()["telegram"]

    assert not found.fine
    assert "clock is 360" in found.detail


def test_a_device_that_is_not_there_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("bot.cli.doctor.httpx.get", told_at(datetime.now(UTC)))
    asked = make_settings(data_dir=settings.storage.data_dir, device="cuda")

    found = {each.name: each for each in examine(asked, make_index(asked))}["model"]

    assert not found.fine
    assert "RATCHET_DEVICE is cuda" in found.detail
