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

from tenacity import RetryCallState, Retrying, retry_if_result, sleep_using_event, wait_exponential

logger = logging.getLogger(__name__)

WORKER = (sys.executable, "-m", "trainer.worker")
STOP_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 300.0


@contextmanager
def supervised_worker(log_level: str) -> Iterator[None]:
    """Keep a worker running during the block; one that ends is restarted after a growing pause."""
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
    """Run workers one after another until `stop` is set."""
    retrying = Retrying(
        retry=retry_if_result(lambda reason: reason is not None),
        wait=wait_exponential(multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS),
        sleep=sleep_using_event(stop),
        before_sleep=_log_end,
    )
    retrying(_run_until_it_ends, stop, log_level)


def _run_until_it_ends(stop: threading.Event, log_level: str) -> str | None:
    """Run one worker. Return why it ended, or None if it was told to by `stop`."""
    if stop.is_set():
        return None
    try:
        process = subprocess.Popen(
            [*WORKER, "--tied"],
            env=_environment(log_level),
            stdin=subprocess.PIPE,  # it ends with this process, however that ends
            start_new_session=True,
        )
    except OSError as error:  # no memory, no process
        return f"could not be started: {error}"
    with process:
        while process.poll() is None:
            if stop.wait(0.5):
                _stop(process)
                return None
    return f"ended with exit code {process.returncode}"


def _log_end(state: RetryCallState) -> None:
    assert state.outcome is not None
    assert state.next_action is not None
    logger.error("the trainer %s; again in %.0f s", state.outcome.result(), state.next_action.sleep)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment(log_level: str) -> dict[str, str]:
    return {**os.environ, "RATCHET_LOG_LEVEL": log_level}
