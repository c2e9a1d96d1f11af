"""`/stats`: how people like each version, how much they rate, and how the last runs went."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from bot.errors import BotError
from store.database import Database
from store.domain import TrainingRun
from store.runs import Runs
from store.tables import FeedbackRow, TurnRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DAYS = 30
VERSIONS = 8
CURVES = 3
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Liking:
    """How one version's replies were rated."""

    name: str
    up: int
    total: int

    @property
    def share(self) -> float:
        """Of 👍."""
        return self.up / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """95 % score interval of the share (Wilson 1927)."""
        from scipy.stats import binomtest  # takes long to import

        interval = binomtest(self.up, self.total).proportion_ci(CONFIDENCE, method="wilson")
        return float(interval.low), float(interval.high)


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What the picture shows."""

    liking: tuple[Liking, ...]
    """By version, in the order in which they were first rated."""
    days: tuple[tuple[date, int, int], ...]
    """Day, 👍, 👎; the last `DAYS`, without gaps."""
    runs: tuple[TrainingRun, ...]
    """The last ones with a training curve, newest first."""

    @property
    def caption(self) -> str:
        """The same in a few words."""
        lines = [f"{each.name}: {each.share:.0%} 👍 of {each.total}" for each in self.liking]
        return "\n".join(lines) or "Nobody has rated anything yet."


def read_statistics(database: Database) -> Statistics:
    """Everything from SQL."""
    name = func.coalesce(TurnRow.adapter, "base model")
    stands = FeedbackRow.replaced_at.is_(None)
    with database.reading() as session:
        versions = session.execute(
            select(name, FeedbackRow.rating, func.count(), func.min(FeedbackRow.id))
            .join(TurnRow, TurnRow.id == FeedbackRow.turn_id)
            .where(stands)
            .group_by(name, FeedbackRow.rating)
        ).all()
        first = database.now().date() - timedelta(days=DAYS - 1)
        rated = session.execute(
            select(FeedbackRow.created_at, FeedbackRow.rating).where(
                stands, FeedbackRow.created_at >= database.now() - timedelta(days=DAYS)
            )
        ).all()
    counts: dict[str, list[int]] = {}
    for version, rating, count, _ in sorted(versions, key=lambda row: row[3]):
        counts.setdefault(version, [0, 0])[0 if rating > 0 else 1] += count
    days = {first + timedelta(days=offset): [0, 0] for offset in range(DAYS)}
    for moment, rating in rated:
        if moment.date() in days:
            days[moment.date()][0 if rating > 0 else 1] += 1
    return Statistics(
        liking=tuple(
            Liking(name=version, up=up, total=up + down) for version, (up, down) in counts.items()
        )[-VERSIONS:],
        days=tuple((day, up, down) for day, (up, down) in days.items()),
        runs=tuple(run for run in Runs(database).recent(20) if run.metrics.curve)[:CURVES],
    )


def draw_statistics(statistics: Statistics) -> bytes:
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
    _draw_liking(liking, statistics.liking)
    _draw_days(days, statistics.days)
    _draw_curves(curves, statistics.runs)
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


def _draw_days(axes: "Axes", days: Sequence[tuple[date, int, int]]) -> None:
    axes.set_title("Ratings a day")
    dates = [f"{day:%d.%m.}" for day, _, _ in days]
    up, down = [each[1] for each in days], [each[2] for each in days]
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
    """An exponential moving mean: single steps of small batches jump."""
    smooth: list[float] = []
    for value in values:
        smooth.append(value if not smooth else 0.8 * smooth[-1] + 0.2 * value)
    return smooth


def _say_if_empty(axes: "Axes", items: Sequence[object], text: str) -> None:
    if not items:
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color="gray")
