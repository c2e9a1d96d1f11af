"""Quotas: limits on what one person may ask for, so that everybody gets a share.

They are counted in SQL, over all chats and replicas. People whom no admin has allowed have a share
of the quotas. Admins have no quotas.
"""

from datetime import timedelta

from bot.errors import QuotaReached
from store.conversations import Conversations
from store.domain import Access
from store.people import People
from store.ratings import Ratings
from store.settings_slices import QuotaSettings

MINUTE = timedelta(minutes=1)
WRITING = timedelta(minutes=10)
"""Age after which a pending turn was left by a crash: no reply takes as long."""
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class Quotas:
    """One bot's quotas."""

    def __init__(
        self,
        *,
        quota: QuotaSettings,
        admins: frozenset[int],
        conversations: Conversations,
        feedback: Ratings,
        people: People,
    ) -> None:
        self._quota = quota
        self._admins = admins
        self._conversations = conversations
        self._feedback = feedback
        self._people = people

    def check(self, person_id: int) -> None:
        """Raise `QuotaReached` if a person has asked for as much as they may."""
        quota = self._quota
        if person_id in self._admins:
            return
        messages, tokens = quota.messages, quota.tokens
        if self._is_stranger(person_id):
            messages, tokens = self._for_strangers(messages), self._for_strangers(tokens)
        usage = self._conversations.usage(person_id, turns=MINUTE, pending=WRITING, tokens=DAY)
        reached = None
        if messages and usage.turns >= messages:
            reached = f"You sent {usage.turns} messages in a minute. Please wait a moment."
        elif quota.at_once and usage.pending >= quota.at_once:
            reached = f"I am still writing {usage.pending} replies to you. Please wait."
        elif tokens and usage.tokens >= tokens:
            reached = "You have reached your daily limit. Please come back tomorrow."
        if reached:
            raise QuotaReached(reached)

    def check_rating(self, person_id: int) -> None:
        """Raise `QuotaReached` if a person has given as many ratings as count."""
        most = self._quota.ratings
        if not most or person_id in self._admins:
            return
        if self._feedback.given_by(person_id, HOUR) >= most:
            raise QuotaReached("You have reached the hourly limit for ratings. Please try later.")

    def _for_strangers(self, bound: int) -> int:
        """Return the strangers' share of a limit, at least 1; 0 stays no limit."""
        return max(1, round(bound * self._quota.stranger_share)) if bound else 0

    def _is_stranger(self, person_id: int) -> bool:
        person = self._people.find(person_id)
        return person is None or person.access in (Access.UNDECIDED, Access.INVITED)
