"""Prometheus metrics: counts and times of replies, and counts of what is stored.

Names and units follow Prometheus' rules: base units, and `_total` for counters.
"""

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from bot.engine.base import Completion, Engine, SamplingParams
from bot.engine.errors import EngineBusy
from store.domain import Adapter, Message
from store.statistics import Statistics

if TYPE_CHECKING:  # health imports this file
    from bot.reports.health import VitalSigns

BASE = "base"
"""Name of the base model among the adapters."""

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Histogram buckets of the time until the first piece."""
TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
"""Histogram buckets of the time per token."""


class Metrics:
    """The counters and histograms of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._signs: dict[str, Gauge] = {}
        self.replies = Counter(
            "ratchet_replies_total",
            "Replies by version, and by how they ended: stop, length, cancelled, busy or failed.",
            ("adapter", "outcome"),
            registry=self.registry,
        )
        self.first_token = Histogram(
            "ratchet_first_token_seconds",
            "Time from the request to the first piece of a reply, waiting included.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.token = Histogram(
            "ratchet_token_seconds",
            "Time per token of a reply after its first piece.",
            buckets=TOKEN_SECONDS,
            registry=self.registry,
        )
        self.under_way = Gauge(
            "ratchet_replies_under_way",
            "Replies that are being written or wait to be.",
            registry=self.registry,
        )
        self.swaps = Counter(
            "ratchet_swaps_total",
            "Changes of the version that answers.",
            registry=self.registry,
        )

    def watch(self, signs: "Callable[[], VitalSigns]") -> None:
        """Show from now on what is under way, as `signs` tells whenever the metrics are read."""
        for name, (text, value) in SIGNS.items():
            gauge = self._signs.get(name)
            if gauge is None:
                gauge = self._signs[name] = Gauge(name, text, registry=self.registry)
            gauge.set_function(lambda value=value: value(signs()))  # type: ignore[misc]


SIGNS: "dict[str, tuple[str, Callable[[VitalSigns], float]]]" = {
    "ratchet_updates_under_way": (
        "Updates that wait or are being handled.",
        lambda each: each.under_way,
    ),
    "ratchet_oldest_update_seconds": (
        "Age of the oldest update under way.",
        lambda each: each.oldest_seconds,
    ),
    "ratchet_messages_waiting": (
        "Messages and edits that wait to be sent.",
        lambda each: each.waiting_to_be_sent,
    ),
    "ratchet_telegram_silent_seconds": (
        "Time since Telegram last answered a poll or posted an update.",
        lambda each: each.silent_seconds or 0.0,
    ),
}


class Metered:
    """An engine that passes everything on to another one, and counts and times its replies."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._answered = False
        self._answering: str | None = None

    @property
    def model(self) -> str:
        """See `Engine.model`."""
        return self._engine.model

    @property
    def context_tokens(self) -> int:
        """See `Engine.context_tokens`."""
        return self._engine.context_tokens

    @property
    def unmerged(self) -> frozenset[str]:
        """See `Engine.unmerged`."""
        return self._engine.unmerged

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """See `Engine.count_tokens`."""
        return self._engine.count_tokens(messages)

    async def stream(
        self, messages: Sequence[Message], sampling: SamplingParams, *, adapter: str | None = None
    ) -> AsyncGenerator[str | Completion, None]:
        """See `Engine.stream`."""
        began, first, outcome = time.monotonic(), 0.0, "cancelled"
        self._note(adapter)
        with self._metrics.under_way.track_inprogress():
            try:
                pieces = self._engine.stream(messages, sampling, adapter=adapter)
                async with aclosing(pieces):
                    async for piece in pieces:
                        now = time.monotonic()
                        if isinstance(piece, Completion):
                            outcome = piece.finish_reason.value
                            if first and piece.completion_tokens > 1:
                                seconds = (now - first) / (piece.completion_tokens - 1)
                                self._metrics.token.observe(seconds)
                        elif not first:
                            first = now
                            self._metrics.first_token.observe(now - began)
                        yield piece
            except EngineBusy:
                outcome = "busy"
                raise
            except Exception:
                outcome = "failed"
                raise
            finally:
                self._metrics.replies.labels(adapter or BASE, outcome).inc()

    def _note(self, adapter: str | None) -> None:
        if self._answered and adapter != self._answering:
            self._metrics.swaps.inc()
        self._answered, self._answering = True, adapter

    async def load_adapter(self, adapter: Adapter) -> None:
        """See `Engine.load_adapter`."""
        await self._engine.load_adapter(adapter)

    async def close(self) -> None:
        """See `Engine.close`."""
        await self._engine.close()


class StoreFigures(Collector):
    """Prometheus metrics of what is stored, counted whenever they are read."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    def describe(self) -> list[GaugeMetricFamily]:
        """Return nothing, so that registering does not read the database."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Count everything. Raises `StoreError`."""
        rated = GaugeMetricFamily(
            "ratchet_ratings", "Ratings that stand, by version.", labels=("adapter", "rating")
        )
        for each in self._statistics.ratings_by_version():
            for rating, count in (("up", each.tally.up), ("down", each.tally.down)):
                if count:
                    rated.add_metric((each.adapter or BASE, rating), count)
        yield rated
        trained = GaugeMetricFamily("ratchet_runs", "Training runs by status.", labels=("status",))
        for status, count in self._statistics.runs_by_status().items():
            trained.add_metric((status,), count)
        yield trained
        yield GaugeMetricFamily(
            "ratchet_updates_waiting",
            "Updates that are stored and not handled yet.",
            self._statistics.updates_waiting(),
        )
        yield GaugeMetricFamily(
            "ratchet_documents_pending",
            "Documents that were never indexed.",
            self._statistics.documents_pending(),
        )
