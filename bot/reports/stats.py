"""The picture of /stats: ratings by version, ratings by day, and the loss of the last runs."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bot.errors import BotError
from store.domain import TrainingRun
from store.runs import Runs
from store.statistics import DayRatings, Statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DAYS = 30
"""Days in the panel of ratings by day."""

VERSIONS = 8
"""Versions in the panel of ratings by version."""

CURVES = 3
"""Training curves in one panel."""

LOOKED_AT = 20
"""Latest runs among which those with a curve are looked for."""

CONFIDENCE = 0.95
"""Confidence of the interval around a share of 👍."""

SMOOTHING = 0.8
"""Weight of the earlier mean in a smoothed training curve."""


@dataclass(frozen=True, kw_only=True)
class Liking:
    """The ratings of one version's replies."""

    name: str
    up: int
    total: int

    @property
    def share(self) -> float:
        """Share of 👍 among the ratings."""
        return self.up / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """95 % score interval of the share (Wilson 1927)."""
        from scipy.stats import binomtest  # takes long to import

        interval = binomtest(self.up, self.total).proportion_ci(CONFIDENCE, method="wilson")
        return float(interval.low), float(interval.high)


@dataclass(frozen=True, kw_only=True)
class StatsReport:
    """The content of the picture."""

    liking: tuple[Liking, ...]
    """One entry per version, in the order of their first ratings; the last `VERSIONS`."""
    days: tuple[DayRatings, ...]
    """One entry per day, oldest first; the last `DAYS`."""
    runs: tuple[TrainingRun, ...]
    """The last `CURVES` runs with a training curve, newest first."""

    @property
    def caption(self) -> str:
        """The liking of each version in a line."""
        lines = [f"{each.name}: {each.share:.0%} 👍 of {each.total}" for each in self.liking]
        return "\n".join(lines) or "Nobody has rated anything yet."


def read_statistics(statistics: Statistics, runs: Runs) -> StatsReport:
    """Read the content of the picture from the store."""
    liking = [
        Liking(
            name=each.adapter or "base model",
            up=each.tally.up,
            total=each.tally.up + each.tally.down,
        )
        for each in statistics.ratings_by_version(VERSIONS)
    ]
    return StatsReport(
        liking=tuple(liking),
        days=statistics.ratings_by_day(DAYS),
        runs=tuple(run for run in runs.recent(LOOKED_AT) if run.metrics.curve)[:CURVES],
    )


def draw_statistics(report: StatsReport) -> bytes:
    """Draw a PNG of three panels. Raises `BotError` if matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second to import
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise BotError(
            "I cannot draw charts: please install matplotlib (the extra `charts`)."
        ) from error

    figure = Figure(figsize=(9, 10), layout="constrained")
    FigureCanvasAgg(figure)
    liking, days, curves = figure.subplots(3, 1)
    _draw_liking(liking, report.liking)
    _draw_days(days, report.days)
    _draw_curves(curves, report.runs)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw_liking(axes: "Axes", liking: Sequence[Liking]) -> None:
    axes.set_title("Share of thumbs up by version, with 95 % intervals and the number of ratings")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    for place, each in enumerate(liking):
        low, high = each.interval
        axes.errorbar(
            place,
            each.share,
            yerr=[[max(0.0, each.share - low)], [max(0.0, high - each.share)]],
            fmt="o",
            capsize=5,
            color="tab:green",
        )
        axes.annotate(
            str(each.total), (place, each.share), xytext=(8, 4), textcoords="offset points"
        )
    axes.set_xticks(range(len(liking)), [each.name for each in liking])
    _say_if_empty(axes, liking, "no ratings yet")


def _draw_days(axes: "Axes", days: Sequence[DayRatings]) -> None:
    axes.set_title("Ratings per day")
    dates = [f"{each.day:%d.%m.}" for each in days]
    up = [each.tally.up for each in days]
    down = [each.tally.down for each in days]
    axes.bar(dates, up, color="tab:green", label="up")
    axes.bar(dates, down, bottom=up, color="tab:red", label="down")
    axes.set_xticks(range(0, len(dates), 5), dates[::5])
    axes.legend()


def _draw_curves(axes: "Axes", runs: Sequence[TrainingRun]) -> None:
    axes.set_title("Training loss of the last runs")
    for run in reversed(runs):
        steps, losses = zip(*run.metrics.curve, strict=True)
        axes.plot(steps, _smoothed(losses), label=f"run {run.id} ({run.status})")
    axes.set_xlabel("step")
    if runs:
        axes.legend()
    _say_if_empty(axes, runs, "no runs yet")


def _smoothed(values: Sequence[float]) -> list[float]:
    """Return the exponential moving mean, since the loss of single small batches jumps."""
    smooth: list[float] = []
    for value in values:
        before = smooth[-1] if smooth else value
        smooth.append(SMOOTHING * before + (1 - SMOOTHING) * value)
    return smooth


def _say_if_empty(axes: "Axes", items: Sequence[object], text: str) -> None:
    if not items:
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color="gray")
