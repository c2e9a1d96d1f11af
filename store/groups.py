"""The rules of Telegram groups for the bot, as their admins decided."""

from dataclasses import asdict, replace

from sqlalchemy import update
from sqlalchemy.orm import Session

from store.database import Database
from store.domain import GroupRules
from store.memories import of_chat, reconsider, retry_withheld
from store.tables import ConversationRow, GroupRulesRow, MemoryRow


class Groups:
    """The rules of the groups of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rules(self, chat_id: int) -> GroupRules:
        """Return the rules of a group; until somebody decides, the bot answers and learns."""
        with self._database.reading() as session:
            return _rules(session.get(GroupRulesRow, chat_id))

    def decide(self, chat_id: int, **changes: bool) -> GroupRules:
        """Record a group admin's decision on one rule or both, and return the rules."""
        with self._database.session() as session:
            self._database.lock(session, chat_id)
            row = session.get(GroupRulesRow, chat_id)
            rules = replace(_rules(row), **changes)
            self._put(session, chat_id, rules)
            reconsider(session, of_chat(chat_id))
            if rules.teaches:
                retry_withheld(session)
        return rules

    def move(self, chat_id: int, to: int) -> None:
        """Take the rules, conversations and memories of a group to the supergroup it became.

        Rules that were decided there already stand.
        """
        with self._database.session() as session:
            row = session.get(GroupRulesRow, chat_id)
            if row is not None and session.get(GroupRulesRow, to) is None:
                self._put(session, to, _rules(row))
            for table in (ConversationRow, MemoryRow):
                session.execute(update(table).where(table.chat_id == chat_id).values(chat_id=to))

    def _put(self, session: Session, chat_id: int, rules: GroupRules) -> None:
        now = self._database.now()
        session.merge(GroupRulesRow(chat_id=chat_id, decided_at=now, **asdict(rules)))


def _rules(row: GroupRulesRow | None) -> GroupRules:
    return GroupRules(answers=row.answers, teaches=row.teaches) if row else GroupRules()
