"""Rounds of learning, each on top of the last: `python -m benchmarks.rounds`.

The loop as it runs for months: an audience chats and rates, a run learns from everything that was
rated, the gate decides, and the next ratings are of the version that went live. Each round is one
line: what the audience thinks of topics that it never rated, and what the gate measured.
"""

import argparse
import asyncio
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bot.app import Store, make_chat, open_store, opened_engine
from bot.cli.worker_process import worker_for
from examples.audience import (
    NEW_TOPICS,
    PERSONAS,
    RATED_TOPICS,
    SETTINGS,
    Audience,
    Persona,
    questions,
)
from examples.scratch import scratch_settings
from store.domain import GateReport

MEASURED = 96


@dataclass(frozen=True, kw_only=True)
class Round:
    """Results of one round; round 0 is the base model."""

    number: int
    rated: int
    """Number of ratings so far."""
    outcome: str
    seconds: float
    pleased: float
    """Share of the live version's replies that please, on topics never rated."""
    retention_lost: float | None
    """Retention that the version made in this round lost to the base model."""
    nll_rise: float | None


async def rounds(store: Store, persona: Persona, *, count: int, rated: int) -> list[Round]:
    """Chat, rate, train and go live, `count` times."""
    async with opened_engine(store.settings) as engine:
        chat = make_chat(store, engine)
        audience = Audience(persona, chat, store.people, store.feedback)
        fresh = questions(NEW_TOPICS, MEASURED, seed=1)
        pleased = audience.pleased(await audience.ask(fresh, rate=False))
        found = [
            Round(
                number=0,
                rated=0,
                outcome="base model",
                seconds=0.0,
                pleased=pleased,
                retention_lost=None,
                nll_rise=None,
            )
        ]
        show(found[-1])
        for number in range(1, count + 1):
            asked = questions(RATED_TOPICS, count * rated)[(number - 1) * rated : number * rated]
            await audience.ask(asked, rate=True)
            found.append(await _round(store, audience, fresh, number, rated * number))
            show(found[-1])
    return found


async def _round(
    store: Store, audience: Audience, fresh: list[str], number: int, rated: int
) -> Round:
    queued, _ = store.runs.queue(f"round {number}")
    with worker_for(queued.id) as worker:
        await asyncio.to_thread(worker.wait)
    run = store.runs.get(queued.id)
    adapter = store.adapters.of_run(run.id)
    report = store.adapters.report(adapter.name) if adapter else None
    return Round(
        number=number,
        rated=rated,
        outcome=run.outcome or run.status.value,
        seconds=run.seconds or 0.0,
        pleased=audience.pleased(await audience.ask(fresh, rate=False)),
        retention_lost=_value(report, "retention lost to base"),
        nll_rise=_value(report, "NLL rise"),
    )


def _value(report: GateReport | None, name: str) -> float | None:
    checks = report.checks if report else ()
    return next((check.value for check in checks if check.name == name), None)


def show(found: Round) -> None:
    """Print a round as soon as it is known."""
    print(json.dumps(asdict(found), ensure_ascii=False), flush=True)


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--persona", default="patient", choices=PERSONAS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rated", type=int, default=130, help="replies rated in a round")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    options = parser.parse_args()
    target = options.json.absolute() if options.json else None
    persona = PERSONAS[options.persona]
    with (
        scratch_settings(**SETTINGS, promote="auto", queue_size=1000) as settings,
        open_store(settings) as store,
    ):
        found = asyncio.run(rounds(store, persona, count=options.rounds, rated=options.rated))
    table = Table("round", "ratings", "pleased", "retention", "NLL", "seconds", "outcome", box=None)
    for each in found:
        table.add_row(
            str(each.number),
            str(each.rated),
            f"{each.pleased:.0%}",
            _points(each.retention_lost),
            "–" if each.nll_rise is None else f"{each.nll_rise:+.2f}",
            f"{each.seconds:.0f}",
            each.outcome,
        )
    Console().print(table)
    if target:
        target.write_text(json.dumps([asdict(each) for each in found], ensure_ascii=False))


def _points(lost: float | None) -> str:
    return "–" if lost is None else f"{-100 * lost:+.1f} points"


if __name__ == "__main__":
    main()
