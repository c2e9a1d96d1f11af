"""Telegram's sending limits, as far as Telegram tells them: per chat, per group, overall."""

import math
from collections import defaultdict, deque

from loopback.delivery import Clock
from loopback.wire import too_many_requests

# Telegram allows "short bursts" above one message a second and does not say how short.
BURST = 4
PER_GROUP_MINUTE = 20
PER_SECOND = 30


class Rates:
    """A count of sends; refused ones do not count, so waiting `retry_after` always helps."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._all: deque[float] = deque()
        self._group: defaultdict[int, deque[float]] = defaultdict(deque)
        self._tokens: dict[int, tuple[float, float]] = {}

    def spend(self, chat_id: int, *, is_private: bool) -> None:
        """Count one message to a chat. Raises ApiError 429 when that exceeds a limit."""
        now = self._clock()
        tokens, at = self._tokens.get(chat_id, (float(BURST), now))
        tokens = min(float(BURST), tokens + now - at)
        waits = [1 - tokens, self._window(self._all, now, 1, PER_SECOND)]
        if not is_private:
            waits.append(self._window(self._group[chat_id], now, 60, PER_GROUP_MINUTE))
        if (wait := max(waits)) > 0:
            raise too_many_requests(max(1, math.ceil(wait)))
        self._tokens[chat_id] = (tokens - 1, now)
        self._all.append(now)
        if not is_private:
            self._group[chat_id].append(now)

    @staticmethod
    def _window(sent: deque[float], now: float, seconds: float, most: int) -> float:
        while sent and sent[0] <= now - seconds:
            sent.popleft()
        return sent[0] + seconds - now if len(sent) >= most else 0
