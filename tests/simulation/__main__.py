"""Plays seeds, and prints those in which a promise was broken.

`python -m tests.simulation --seeds 10000 --processes 2`; `--seed 17` plays one, with its log.
"""

import argparse
import logging
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.simulation.play import Play, make_template

CHUNK = 50


def play(first: int, count: int, template: Path) -> dict[int, list[str]]:
    """Play some seeds; return the broken promises of those that broke any."""
    logging.disable(logging.CRITICAL)
    found = {}
    for seed in range(first, first + count):
        try:
            errors = Play(seed, template).run()
        except Exception as error:
            errors = [f"{type(error).__name__}: {error}"]
        if errors:
            found[seed] = errors
    return found


def main() -> None:
    """Play the seeds that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, help="play this one alone, and show its log")
    options = parser.parse_args()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        template = make_template(Path(folder))
        if options.seed is not None:
            logging.basicConfig(level=logging.INFO, stream=sys.stdout)
            errors = Play(options.seed, template).run()
            print("\n".join(errors) or "every promise was kept")
            sys.exit(bool(errors))
        began, broken = time.perf_counter(), 0
        firsts = range(options.first, options.first + options.seeds, CHUNK)
        with ProcessPoolExecutor(options.processes) as pool:
            counts = [min(CHUNK, options.first + options.seeds - first) for first in firsts]
            for found in pool.map(play, firsts, counts, [template] * len(counts)):
                for seed, errors in found.items():
                    broken += 1
                    print(f"seed {seed}: {'; '.join(errors)}", flush=True)
        minutes = (time.perf_counter() - began) / 60
        print(f"{options.seeds} seeds in {minutes:.1f} minutes, {broken} broke a promise")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
