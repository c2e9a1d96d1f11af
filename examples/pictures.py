"""Pictures of the demo's results."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bot.reports.stats import Liking


@dataclass(frozen=True, kw_only=True)
class Share:
    """A version's share of replies that pleased, and their number."""

    name: str
    share: float
    count: int


def draw_demo(path: Path, *, curve: Sequence[tuple[int, float]], shares: Sequence[Share]) -> None:
    """Draw the learning curve, and how the audience likes each version, with 95 % intervals."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    loss, liked = figure.subplots(1, 2)
    steps, losses = zip(*curve, strict=True)
    loss.plot(steps, losses, color="lightgray")
    window = max(5, len(losses) // 10)
    means = [
        sum(losses[max(0, place - window + 1) : place + 1]) / min(place + 1, window)
        for place in range(len(losses))
    ]
    loss.plot(steps, means, color="tab:blue")
    loss.set(title="Training loss, and its moving mean", xlabel="step")
    for place, each in enumerate(shares):
        liking = Liking(name=each.name, up=round(each.share * each.count), total=each.count)
        low, high = liking.interval
        liked.bar(place, each.share, color="tab:green" if place else "tab:gray")
        liked.errorbar(
            place,
            each.share,
            yerr=[[each.share - low], [high - each.share]],
            color="black",
            capsize=6,
        )
    liked.set_xticks(range(len(shares)), [each.name for each in shares])
    liked.set(title="Replies that please, on topics never rated", ylim=(0, 1))
    figure.savefig(path, dpi=110)
