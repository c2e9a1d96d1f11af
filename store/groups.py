"""What the admins of a Telegram group decided about the bot in it."""

from sqlalchemy import Select, select

from store.database import Database
from store.domain import GroupRules
from store.tables import ConversationRow, GroupRulesRow, TurnRow


def silent_turns() -> Select[int]:
    """The turns of groups that must not be learned from."""
    return (
        select(TurnRow.id)
        .join(ConversationRow, ConversationRow.id == TurnRow.conversation_id)
        .join(GroupRulesRow, GroupRulesRow.chat_id == ConversationRow.chat_id)
        .where(GroupRulesRow.teaches.is_(False))
    )


class Groups:
    """The rules of the groups of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rules(self, chat_id: int) -> GroupRules:
        """What holds in a group; until somebody decides, the bot answers and learns."""
        with self._database.reading() as session:
            row = session.get(GroupRulesRow, chat_id)
            return GroupRules(answers=row.answers, teaches=row.teaches) if row else GroupRules()

    def decide(self, chat_id: int, rules: GroupRules, *, admin_id: int) -> None:
        """Record what an admin of the group decided."""
        with self._database.session() as session:
            session.merge(
                GroupRulesRow(
                    chat_id=chat_id,
                    answers=rules.answers,
                    teaches=rules.teaches,
                    decided_by=admin_id,
                    decided_at=self._database.now(),
                )
            )
