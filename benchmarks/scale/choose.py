"""Choice of a run's examples in a process of its own, whose peak of memory is measured.

`python -m benchmarks.scale.choose URL` prints a line of JSON for each part of the choice.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil

from benchmarks.scale.figures import Figure
from store.database import Database
from store.examples import Examples
from store.people import People
from store.settings import load_settings
from store.teaching import TeachingRule
from trainer.examples.dataset import take_snapshot
from trainer.examples.rater_shares import RaterTrust
from trainer.recipe import Recipe
from trainer.run import CANDIDATES

CHOOSING_SECONDS = 900.0
"""Timeout of the choice."""

LIMIT_SECONDS, LIMIT_MEGABYTES = 5.0, 300.0


def choosing(url: str) -> Iterator[Figure]:
    """Measure the choice of a run's examples in another process."""
    command = [sys.executable, "-m", "benchmarks.scale.choose", url]
    note = ""
    try:
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, timeout=CHOOSING_SECONDS
        ).stdout
    except subprocess.TimeoutExpired as late:
        done, note = late.stdout or b"", "given up"
    parts = [json.loads(line) for line in done.splitlines()]
    for part in parts:
        found = f"{part['examples']} examples, {part['megabytes']:.0f} MB so far"
        values = [part["seconds"]]
        yield Figure(name=f"examples: {part['part']}", values=values, unit="s", note=found)
    seconds = CHOOSING_SECONDS if note else sum(part["seconds"] for part in parts)
    peak = max((part["megabytes"] for part in parts), default=0.0)
    yield Figure(name="examples: sum", values=[seconds], unit="s", limit=LIMIT_SECONDS, note=note)
    yield Figure(
        name="examples: peak memory", values=[peak], unit="MB", limit=LIMIT_MEGABYTES, note=note
    )


def choose(url: str) -> None:
    """Choose a run's examples; print the seconds and the megabytes of each part."""
    database, settings = Database(url), load_settings()
    recipe, admission = Recipe.of(settings.train), settings.admission
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    rule = TeachingRule.of(admission, settings.privacy)
    most = CANDIDATES * recipe.max_examples
    examples = Examples(database, rule).collect(most, seed=recipe.seed)
    _print("collect", time.perf_counter() - started, before, len(examples.every))
    started = time.perf_counter()
    raters = {person for each in examples.every for person in (*each.raters, *each.outvoted)}
    days = settings.train.newcomer_days
    new = People(database).newcomers(raters, age=timedelta(days=days), active_days=-(-days // 2))
    snapshot = take_snapshot(
        examples,
        recipe,
        system_prompt=settings.reply.system_prompt,
        trust=RaterTrust(trusted=admission.admins, newcomers=new),
    )
    _print("take_snapshot", time.perf_counter() - started, before, len(snapshot.train.every))


def _print(part: str, seconds: float, before: int, examples: int) -> None:
    megabytes = (_peak() - before) / 1e6
    said = {"part": part, "seconds": seconds, "megabytes": megabytes, "examples": examples}
    print(json.dumps(said), flush=True)


def _peak() -> int:
    """Return the most bytes this process has held; `ru_maxrss` would count its parent's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    choose(sys.argv[1])
