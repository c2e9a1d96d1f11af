"""Runs the trainer as a process beside the bot: starts it, restarts it when it dies, stops it.

The two share only the store; nothing of the trainer is imported here.
"""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

WORKER = (sys.executable, "-m", "trainer.worker")
STOP_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 300.0


@contextmanager
def supervised_worker(log_level: str) -> Iterator[None]:
    """Run a worker for the length of the block; restart one that dies, after growing pauses."""
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(stop, log_level), name="trainer", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join(STOP_SECONDS + 5)


@contextmanager
def worker_for(run_id: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a worker for one training run, unless another takes it; stop it after the block."""
    process = subprocess.Popen([*WORKER, "--run", str(run_id)], env=_environment("ERROR"))
    try:
        yield process
    finally:
        _stop(process)


def _watch(stop: threading.Event, log_level: str) -> None:
    pause = FIRST_PAUSE_SECONDS
    while not stop.is_set():
        try:
            process = subprocess.Popen(
                [*WORKER, "--tied"],
                env=_environment(log_level),
                stdin=subprocess.PIPE,  # it ends with this process, however that ends
                start_new_session=True,
            )
        except OSError as error:  # no memory, no process
            reason = f"could not be started: {error}"
        else:
            with process:
                while process.poll() is None:
                    if stop.wait(0.5):
                        _stop(process)
                        return
            reason = f"ended with exit code {process.returncode}"
        logger.error("the trainer %s; again in %.0f s", reason, pause)
        stop.wait(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment(log_level: str) -> dict[str, str]:
    return {**os.environ, "RATCHET_LOG_LEVEL": log_level}
