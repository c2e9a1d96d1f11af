"""How long SQLite's write lock is held at a time, as seen by somebody who wants it."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from sqlalchemy.engine import make_url

POLL_SECONDS = 0.0005


@contextmanager
def watched_lock(url: str) -> Iterator[list[float]]:
    """Yield a list that, after the block, has each stretch in which the lock was refused.

    In milliseconds. A thread asks for the lock again and again and gives it back at once, so that
    the disk has no share in the figure. The list stays empty for a database without such a lock.
    """
    stretches: list[float] = []
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or parsed.database is None:
        yield stretches
        return
    path, done = parsed.database, threading.Event()

    def watch() -> None:
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
            free = time.perf_counter()
            while not done.is_set():
                try:
                    connection.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:  # somebody holds it
                    time.sleep(POLL_SECONDS)
                    continue
                connection.execute("ROLLBACK")
                now = time.perf_counter()
                stretches.append(1000 * (now - free))
                time.sleep(POLL_SECONDS)
                free = time.perf_counter()

    watcher = threading.Thread(target=watch, name="watcher of the write lock")
    watcher.start()
    try:
        yield stretches
    finally:
        done.set()
        watcher.join()
