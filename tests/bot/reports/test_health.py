"""Health checks that tell whoever watches the bot the truth."""

import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest

from bot.errors import BotError
from bot.reports.health import Health, VitalSigns
from bot.reports.metrics import Metrics, StoreFigures
from store.database import Database
from store.statistics import Statistics

TALKING = VitalSigns(
    silent_seconds=2.0, is_deaf=False, under_way=3, oldest_seconds=7.0, waiting_to_be_sent=5
)


@pytest.fixture
def health(sqlite: Database) -> Health:
    metrics = Metrics()
    metrics.registry.register(StoreFigures(Statistics(sqlite)))
    health = Health(sqlite, metrics)
    health.watch(lambda: TALKING)
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
    assert ready.text.splitlines() == [
        "ok",
        "last heard of Telegram: 2 s ago",
        "updates under way: 3, the oldest for 7 s",
        "messages waiting to be sent: 5",
    ]


async def test_a_bot_that_hears_nothing_is_not_ready(
    client: httpx.AsyncClient, health: Health
) -> None:
    health.watch(lambda: replace(TALKING, silent_seconds=500.0, is_deaf=True))

    ready = await client.get("/readyz")

    assert (ready.status_code, ready.text.splitlines()[0]) == (
        503,
        "Telegram was last heard 500 s ago",
    )


async def test_what_is_under_way_is_among_the_figures(client: httpx.AsyncClient) -> None:
    found = (await client.get("/metrics")).text

    assert "ratchet_updates_under_way 3.0" in found
    assert "ratchet_oldest_update_seconds 7.0" in found
    assert "ratchet_messages_waiting 5.0" in found


async def test_a_bot_that_is_starting_or_stopping_is_alive_and_not_ready(
    client: httpx.AsyncClient, health: Health
) -> None:
    health.watch(lambda: replace(TALKING, silent_seconds=None))

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
