"""The one rule for who may teach: training, memory, counts and gates all ask it.

A person may teach if they have access, have not opted out, are not held back, are not being erased,
and have said yes if they were asked. A turn teaches if the person who asked it may teach, if its
group allows it, and if every source of its prompt may still be used.

Invariant: the rule is asked at each use, and the answer is not stored. So a decision holds at once.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

from sqlalchemy import ColumnElement, Select, and_, exists, or_, select
from sqlalchemy.orm import aliased

from store.database import Database
from store.domain import Access, PartKind, TurnState
from store.settings_slices import AdmissionSettings, PrivacySettings
from store.tables import (
    ConversationRow,
    CorrectionRow,
    ErasureRow,
    FeedbackRow,
    GroupRulesRow,
    PersonRow,
    QuarantineRow,
    TurnPartRow,
    TurnRow,
)


@dataclass(frozen=True, kw_only=True)
class TeachingRule:
    """An installation's rule for who may teach."""

    open_access: bool = True
    """True if people whom no admin has decided about may teach."""
    admins: frozenset[int] = frozenset()
    consent_required: bool = False
    """True if people who were never asked must say yes, too."""

    @classmethod
    def of(cls, admission: AdmissionSettings, privacy: PrivacySettings) -> Self:
        """Return the rule that the settings ask for."""
        return cls(
            open_access=admission.access == "open",
            admins=admission.admins,
            consent_required=privacy.train_consent,
        )

    @cached_property
    def turns(self) -> ColumnElement[bool]:
        """The condition under which a row of `turns` may teach."""
        first = aliased(TurnRow)
        first_asker_allows = exists().where(
            first.id == TurnRow.regenerates_id, self.may_teach(first.person_id)
        )
        return and_(
            TurnRow.state == TurnState.FINAL,
            TurnRow.completion != "",
            self.may_teach(TurnRow.person_id),
            or_(TurnRow.regenerates_id.is_(None), first_asker_allows),
            ~in_silent_group(TurnRow.conversation_id),
            ~self._has_forbidden_part(),
        )

    @cached_property
    def ratings(self) -> ColumnElement[bool]:
        """The condition under which a row of `feedback` counts."""
        return self.may_teach(FeedbackRow.person_id)

    @cached_property
    def corrections(self) -> ColumnElement[bool]:
        """The condition under which a row of `corrections` counts."""
        return self.may_teach(CorrectionRow.person_id)

    def may_teach(self, person_id: Any) -> ColumnElement[bool]:
        """Return the condition under which the person with an id may teach.

        `person_id` is a column of another table, or an id.
        """
        person = aliased(PersonRow)
        return exists().where(person.id == person_id, self._allows(person))

    def _allows(self, person: Any) -> ColumnElement[bool]:
        admitted = or_(
            person.access.in_((Access.ALLOWED, Access.INVITED)), person.id.in_(self.admins)
        )
        if self.open_access:
            admitted = or_(admitted, person.access == Access.UNDECIDED)
        agreed = person.consented_to.is_not(None)
        if not self.consent_required:
            agreed = or_(agreed, person.asked_at.is_(None))
        return and_(
            person.id >= 0,  # a group, in whose name anonymous admins write, is nobody
            admitted,
            agreed,
            person.opted_out.is_(False),
            person.id.not_in(held_back()),
            person.id.not_in(select(ErasureRow.person_id)),
        )

    def _has_forbidden_part(self) -> ColumnElement[bool]:
        """Return the condition that a turn was served with words that must not be learned from.

        Those are words that were erased, that come from a removed or replaced document, that were
        written by a person who may not teach, or that a reply may have repeated from erased ones.
        """
        source, first = aliased(TurnRow), aliased(TurnRow)
        correction, earlier = aliased(CorrectionRow), aliased(TurnPartRow)
        first_asker_forbids = exists().where(
            first.id == source.regenerates_id, ~self.may_teach(first.person_id)
        )
        silent_asker = exists().where(
            source.id == TurnPartRow.source_turn_id,
            or_(
                ~self.may_teach(source.person_id),
                first_asker_forbids,
                in_silent_group(source.conversation_id),
                exists().where(earlier.turn_id == source.id, earlier.erased.is_(True)),
            ),
        )
        silent_corrector = and_(
            TurnPartRow.correction_id.is_not(None),  # or Postgres reads every correction first
            exists().where(
                correction.id == TurnPartRow.correction_id,
                ~self.may_teach(correction.person_id),
            ),
        )
        return exists().where(
            TurnPartRow.turn_id == TurnRow.id,
            or_(
                TurnPartRow.erased.is_(True),
                and_(TurnPartRow.kind == PartKind.PASSAGE, TurnPartRow.chunk_id.is_(None)),
                silent_asker,
                silent_corrector,
            ),
        )


def held_back() -> Select[int]:
    """Select the ids of people whose ratings are held back."""
    return select(QuarantineRow.person_id).where(QuarantineRow.released_at.is_(None))


def in_silent_group(conversation_id: Any) -> ColumnElement[bool]:
    """Return the condition under which a conversation's group must not be learned from."""
    return exists().where(
        ConversationRow.id == conversation_id,
        GroupRulesRow.chat_id == ConversationRow.chat_id,
        GroupRulesRow.teaches.is_(False),
    )


class TeachingState(StrEnum):
    """The state of a person in a chat: the bot learns from them, or the reason why it does not."""

    TEACHES = "teaches"
    NOT_AGREED = "not agreed"
    OPTED_OUT = "opted out"
    SILENT_GROUP = "silent group"
    NOT_ADMITTED = "not admitted"


class Teaching:
    """The teaching states of people, to be shown to them. Any thread."""

    def __init__(self, database: Database, rule: TeachingRule) -> None:
        self._database = database
        self._rule = rule

    def state(self, person_id: int, chat_id: int) -> TeachingState:
        """Return whether what a person says and rates in a chat is learned from."""
        with self._database.reading() as session:
            rules = session.get(GroupRulesRow, chat_id)
            if rules is not None and not rules.teaches:
                return TeachingState.SILENT_GROUP
            if session.scalar(select(self._rule.may_teach(person_id))):
                return TeachingState.TEACHES
            person = session.get(PersonRow, person_id)
            if person is not None and person.opted_out:
                return TeachingState.OPTED_OUT
            agreed = person is not None and person.consented_to is not None
            return TeachingState.NOT_ADMITTED if agreed else TeachingState.NOT_AGREED
