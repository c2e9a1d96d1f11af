"""Time that a process spends in its database: statements, and commits with what they flush."""

import time
from typing import Any

from sqlalchemy import Engine, event


class SqlTime:
    """The time that one engine's statements and commits have taken, in milliseconds."""

    def __init__(self, engine: Engine) -> None:
        self.milliseconds = 0.0
        self._begun = 0.0
        event.listen(engine, "before_cursor_execute", self._begin)
        event.listen(engine, "after_cursor_execute", self._end)
        commit = engine.dialect.do_commit

        def timed_commit(connection: Any) -> None:
            self._begin()
            commit(connection)
            self._end()

        engine.dialect.do_commit = timed_commit  # type: ignore[method-assign,assignment]

    def _begin(self, *_: Any) -> None:
        self._begun = time.perf_counter()

    def _end(self, *_: Any) -> None:
        self.milliseconds += 1000 * (time.perf_counter() - self._begun)
