"""The embedded model, converted once, and the `ratchet` command as a subprocess."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bot.engine.starter import starter_folder
from examples.scratch import let_teach
from loopback import BotApi

TOKEN = "42:e2e-secret"
OPEN = {"access": "open", "promote": "auto"}
"""Settings with which everybody may talk, and a version that passes goes live."""

COMMAND_SECONDS = 120
EVERYBODY = (*range(1, 11), *range(100, 150))
"""The ids of the people in these tests."""
RATCHET = (sys.executable, "-c", "from bot.cli.main import main; main()")


@dataclass(frozen=True, kw_only=True)
class Done:
    """The result of a command."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, kw_only=True)
class Home:
    """A data folder, and the environment that points there."""

    folder: Path
    environment: Mapping[str, str]

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.folder / 'ratchet.db'}"

    async def ratchet(self, *arguments: str, stdin: str = "", **settings: str) -> Done:
        """Run a command to its end."""
        process = await asyncio.create_subprocess_exec(
            *RATCHET,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.settings(settings),
            cwd=self.folder,
        )
        async with asyncio.timeout(COMMAND_SECONDS):
            out, err = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return Done(code=process.returncode, out=out.decode(), err=err.decode())

    def agree(self) -> None:
        """Let everybody whom these tests know have said yes to being learned from."""
        let_teach(self.database_url, EVERYBODY)

    def settings(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Return the environment with settings, whose names are given without the prefix."""
        named = {f"RATCHET_{name.upper()}": value for name, value in settings.items()}
        return {**self.environment, **named}


@dataclass(kw_only=True)
class RunningBot:
    """A bot process that serves Telegram."""

    process: asyncio.subprocess.Process
    log: Path
    code: int | None = None
    expected_code: int = 0
    """Exit code that the process must have at the end of the test."""

    async def stop(self) -> int:
        """Send SIGTERM; return the exit code."""
        if self.code is None:
            self.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(60):
                self.code = await self.process.wait()
        return self.code

    async def kill(self) -> None:
        """Kill the process as a power cut would: no handler runs, nothing is finished."""
        self.process.kill()
        self.code = self.expected_code = await self.process.wait()


StartBot = Callable[..., AbstractAsyncContextManager[RunningBot]]


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the embedded model in it, ready to load."""
    folder = tmp_path_factory.mktemp("models")
    starter_folder(folder)
    return folder


@pytest.fixture
def home(tmp_path: Path, models_folder: Path) -> Home:
    """Return a data folder that is empty except for the model."""
    (tmp_path / "models").symlink_to(models_folder)
    environment = {**os.environ, "RATCHET_DATA_DIR": str(tmp_path), "COLUMNS": "200"}
    return Home(folder=tmp_path, environment=environment)


@pytest.fixture
async def api() -> AsyncIterator[BotApi]:
    """Yield a loopback Telegram."""
    async with BotApi(TOKEN) as api:
        yield api


@pytest.fixture
def start_bot(home: Home, api: BotApi) -> StartBot:
    """Return a starter of `ratchet run` on the loopback Telegram; it waits for the bot."""

    @asynccontextmanager
    async def start(*, agreed: bool = True, **settings: str) -> AsyncIterator[RunningBot]:
        if agreed:
            home.agree()
        log = home.folder / "bot.log"
        with log.open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                *(*RATCHET, "run"),
                stdin=asyncio.subprocess.DEVNULL,
                stderr=file,
                env=home.settings(
                    OPEN | {"telegram_token": TOKEN, "telegram_api_url": api.url} | settings
                ),
                cwd=home.folder,
            )
        running = RunningBot(process=process, log=log)
        try:
            await api.wait_polling(timeout=90)
            yield running
        finally:
            assert await running.stop() == running.expected_code, log.read_text()

    return start
