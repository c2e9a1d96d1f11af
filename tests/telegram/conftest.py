"""A bot that listens to a loopback Telegram, and the people who write to it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
from telegram.request import HTTPXRequest

from bot.telegram.consent import Consent
from bot.telegram.timing import Timing
from loopback import BotApi, Chat, User
from store.database import Database
from store.domain import Adapter
from tests.conftest import MakeAdapter
from tests.fakes import FakeEngine
from tests.telegram.running import ADMIN_ID, HURRIED, RunningBot, make_settings, run, store_of

GROUP_ID = -1_001_000_000_001

Start = Callable[..., Awaitable[RunningBot]]
MakeVersion = Callable[..., Adapter]


@pytest.fixture(autouse=True)
def _no_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Read no certificates: every client would read the system's, and loopback needs none."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))


@pytest.fixture
def asking() -> None:
    """Let people be asked whether the bot may learn from them, as they are outside tests."""


@pytest.fixture(autouse=True)
def _nobody_is_asked(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Ask nobody about training except in tests of it; whoever was never asked teaches."""
    if "asking" not in request.fixturenames:
        monkeypatch.setattr(Consent, "ask", AsyncMock())


@pytest.fixture
def timing() -> Timing:
    """Return the pauses of bots that `start` starts."""
    return HURRIED


@pytest.fixture
async def api() -> AsyncIterator[BotApi]:
    """Yield a loopback Telegram."""
    async with BotApi("42:secret") as api:
        yield api


@pytest.fixture
async def start(
    api: BotApi, sqlite: Database, tmp_path: Path, timing: Timing
) -> AsyncIterator[Start]:
    """Yield a starter of bots with the test's settings; it waits until the bot listens."""
    running: list[RunningBot] = []

    async def start(
        *,
        engine: FakeEngine | None = None,
        request: HTTPXRequest | None = None,
        wait: bool = True,
        timing: Timing = timing,
        **overrides: object,
    ) -> RunningBot:
        settings = make_settings(api.url, data_dir=tmp_path, **overrides)
        running.append(run(api, store_of(settings, sqlite), engine, request, timing))
        if wait:
            await api.wait_polling()
        return running[-1]

    yield start
    for bot in running:
        await bot.close()


@pytest.fixture
async def bot(start: Start) -> RunningBot:
    """Return a bot with the default settings, and `grace` as its admin."""
    return await start()


@pytest.fixture
def make_version(make_adapter: MakeAdapter) -> MakeVersion:
    """Return a maker of versions in a bot's store, as a run adds them, each with other weights."""
    seeds = count(1)

    def make(bot: RunningBot, *, base_model: str = "fake", run_id: int | None = None) -> Adapter:
        folder = Path(make_adapter(base_model, seed=next(seeds)).path)
        return bot.store.adapters.add(folder, base_model=base_model, run_id=run_id)

    return make


@pytest.fixture
def ada(api: BotApi) -> User:
    return api.user(1, first_name="Ada")


@pytest.fixture
def bob(api: BotApi) -> User:
    return api.user(2, first_name="Bob")


@pytest.fixture
def grace(api: BotApi) -> User:
    """Return the admin."""
    return api.user(ADMIN_ID, first_name="Grace")


@pytest.fixture
def chat(api: BotApi, ada: User) -> Chat:
    """Return Ada's private chat with the bot."""
    return api.private(ada)


@pytest.fixture
def office(api: BotApi, grace: User) -> Chat:
    """Return the admin's private chat with the bot."""
    return api.private(grace)


@pytest.fixture
def group(api: BotApi, ada: User, bob: User, grace: User) -> Chat:
    """Return a group of Ada, Bob, the admin and the bot."""
    return api.group(GROUP_ID, "Friends", [ada, bob, grace])
