"""Whole bots under a simulated clock; `python -m tests.simulation` plays thousands of seeds."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bot.telegram.dispatcher import Dispatcher
from bot.telegram.inbox import Inbox
from store.updates import ReceivedUpdate, Updates
from tests.simulation.play import Play, make_template

SEEDS = range(12)

MOST_SEEDS = range(60)
"""Seeds within which a bot that breaks a promise is found out."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Log nothing: errors are what is tried here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("simulation"))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_promise_is_kept_whatever_goes_wrong(seed: int, template: Path) -> None:
    assert Play(seed, template).run() == []


def first_broken(template: Path) -> tuple[int, list[str]]:
    """Return the first seed in which a promise is broken, and the promises."""
    return next((seed, errors) for seed in MOST_SEEDS if (errors := Play(seed, template).run()))


def test_the_same_seed_fails_again_in_the_same_way(
    template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Updates, "take_over", lambda *_, **__: ())

    seed, errors = first_broken(template)

    assert Play(seed, template).run() == errors


def test_a_bot_that_does_not_go_on_after_a_crash_is_found_out(
    template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Updates, "take_over", lambda *_, **__: ())

    _, errors = first_broken(template)

    assert any("updates are left" in each for each in errors)


def test_a_bot_that_confirms_before_it_stores_is_found_out(
    template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def once(self: Inbox, work: object) -> object:
        try:
            return work()  # type: ignore[operator]
        except Exception:
            return set()

    monkeypatch.setattr(Inbox, "_stored", once)

    _, errors = first_broken(template)

    assert any("neither answered nor told" in each for each in errors)


def test_a_bot_that_handles_a_repeated_update_again_is_found_out(
    template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_in = Updates.take_in

    def as_new(self: Updates, updates: Sequence[ReceivedUpdate]) -> set[int]:
        take_in(self, updates)
        return {each.id for each in updates}

    monkeypatch.setattr(Updates, "take_in", as_new)

    _, errors = first_broken(template)

    assert errors


def test_a_bot_that_gives_up_when_the_database_is_away_is_found_out(
    template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dispatcher, "_is_over", lambda *_: True)

    _, errors = first_broken(template)

    assert errors
