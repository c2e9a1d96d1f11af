"""Health checks that tell whoever watches the bot the truth."""

import socket
from collections.abc import AsyncIterator

import httpx
import pytest

from bot.errors import BotError
from bot.reports.health import Health
from bot.reports.metrics import Metrics, StoreFigures
from store.database import Database
from store.statistics import Statistics


@pytest.fixture
def health(sqlite: Database) -> Health:
    metrics = Metrics()
    metrics.registry.register(StoreFigures(Statistics(sqlite)))
    health = Health(sqlite, metrics)
    health.is_talking = lambda: True
    return health


@pytest.fixture
async def client(health: Health, unused_tcp_port: int) -> AsyncIterator[httpx.AsyncClient]:
    address = f"127.0.0.1:{unused_tcp_port}"
    async with (
        health.serve(address),
        httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client,
    ):
        yield client


async def test_a_bot_that_talks_is_alive_and_ready(client: httpx.AsyncClient) -> None:
    alive, ready = await client.get("/healthz"), await client.get("/readyz")

    assert (alive.status_code, ready.status_code) == (200, 200)


async def test_a_bot_that_is_starting_or_stopping_is_alive_and_not_ready(
    client: httpx.AsyncClient, health: Health
) -> None:
    health.is_talking = lambda: False

    alive, ready = await client.get("/healthz"), await client.get("/readyz")

    assert (alive.status_code, ready.status_code) == (200, 503)
    assert "not talking" in ready.text


async def test_without_its_database_it_is_not_ready_and_has_no_figures(
    client: httpx.AsyncClient, sqlite: Database
) -> None:
    with sqlite.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE feedback")
        connection.exec_driver_sql("DROP TABLE alembic_version")

    ready, metrics = await client.get("/readyz"), await client.get("/metrics")

    assert (ready.status_code, metrics.status_code) == (503, 503)
    assert "the database" in ready.text


async def test_figures_are_in_prometheus_format(client: httpx.AsyncClient, health: Health) -> None:
    health.metrics.replies.labels("base", "stop").inc()

    found = await client.get("/metrics")

    assert found.headers["content-type"].startswith("text/plain; version=")
    assert 'ratchet_replies_total{adapter="base",outcome="stop"} 1.0' in found.text


async def test_whoever_asks_for_the_head_alone_gets_it_and_other_methods_are_no_fault(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        found = await client.head(path)
        assert (found.status_code, found.content) == (200, b"")
        assert (await client.post(path)).status_code == 405

    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_other_paths_are_not_found(client: httpx.AsyncClient) -> None:
    assert (await client.get("/admin")).status_code == 404


async def test_an_address_in_use_is_an_error_that_names_the_setting(health: Health) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BotError, match="RATCHET_HEALTH_LISTEN"):
            async with health.serve(address):
                pass
