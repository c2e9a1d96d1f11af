"""Rated turns, corrections, answers given again and imported files → training examples.

Invariant: which share an example belongs to is decided by a hash of the turn it comes from (of
the first answer, for an answer given again) and by nothing else, so that what is held out once is
never trained on, whatever is rated later.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import combinations, pairwise
from typing import Self

from sqlalchemy import ColumnElement, Select, func, or_, select
from sqlalchemy.orm import Session

from store.database import Database
from store.domain import (
    Access,
    AnyExample,
    Demonstration,
    Example,
    ExampleSet,
    FinishReason,
    Message,
    PreferencePair,
    TurnState,
)
from store.groups import turns_of_silent_groups
from store.settings_slices import AdmissionSettings, PrivacySettings
from store.suspects import held_back
from store.tables import (
    CorrectionRow,
    FeedbackRow,
    ImportedRow,
    PersonRow,
    TurnRow,
)

HELD_OUT_SHARE = 0.2
"""A constant and not a setting: with another share, what was held out would be trained on."""


IMPORTS_KEY = -3
"""Imports take turns under this key; no Telegram chat has it as its id."""


@dataclass(frozen=True, kw_only=True)
class Preference:
    """A line of a preference file: a labelled or demonstrated completion, or a pair."""

    prompt: tuple[Message, ...]
    completion: str
    rejected: str | None = None
    label: bool | None = None


class Examples:
    """The training examples of one database.

    People who opted out, who have no access, or whose ratings are held back, neither teach with
    what they asked nor with what they rated. Nor do turns of others that were served with the words
    of somebody who opted out.
    `open_access` says what holds for people whom no admin has decided about; with `only_agreed`
    only those teach who agreed to it.
    """

    def __init__(
        self,
        database: Database,
        *,
        open_access: bool,
        admins: frozenset[int] = frozenset(),
        only_agreed: bool = False,
    ) -> None:
        self._database = database
        self._open_access = open_access
        self._admins = admins
        self._only_agreed = only_agreed

    @classmethod
    def of(cls, database: Database, admission: AdmissionSettings, privacy: PrivacySettings) -> Self:
        """The book that the settings ask for."""
        return cls(
            database,
            open_access=admission.access == "open",
            admins=admission.admins,
            only_agreed=privacy.train_consent,
        )

    def collect(self) -> ExampleSet:
        """Everything there is, each kind oldest first."""
        with self._database.reading() as session:
            silent = _Silent(session.scalars(self._silent_turns()))
            turns = {
                row.id: row
                for row in session.scalars(self._usable_turns())
                if not silent.speak_in(row)
            }
            votes = self._votes(session, turns)
            corrections = self._corrections(session, turns)
            imported = session.scalars(select(ImportedRow).order_by(ImportedRow.id)).all()
        rated = [_example(turns[turn], vote) for turn, vote in votes.items() if vote.lead]
        pairs = [
            *(_corrected(turns[each.turn_id], each) for each in corrections),
            *_regenerated(turns, votes),
        ]
        demonstrations = [_demonstration(turns[each.turn_id], each) for each in corrections]
        for row in imported:
            if row.rejected is not None:
                pairs.append(_imported_pair(row))
            elif row.label is not None:
                rated.append(_imported_example(row))
            else:
                demonstrations.append(_imported_demonstration(row))
        return ExampleSet(
            unpaired=tuple(sorted(rated, key=_age)),
            pairs=tuple(sorted(pairs, key=_age)),
            demonstrations=tuple(sorted(demonstrations, key=_age)),
        )

    def ratings_since(self, moment: datetime | None) -> int:
        """Ratings and corrections that may teach, and imports, after a moment; None counts all."""
        counts = (
            (
                select(func.count())
                .select_from(FeedbackRow)
                .join(PersonRow, PersonRow.id == FeedbackRow.person_id)
                .where(
                    FeedbackRow.replaced_at.is_(None),
                    FeedbackRow.turn_id.not_in(turns_of_silent_groups()),
                    self._may_teach(),
                ),
                FeedbackRow.created_at,
            ),
            (
                select(func.count())
                .select_from(CorrectionRow)
                .join(PersonRow, PersonRow.id == CorrectionRow.person_id)
                .where(CorrectionRow.turn_id.not_in(turns_of_silent_groups()), self._may_teach()),
                CorrectionRow.created_at,
            ),
            (select(func.count()).select_from(ImportedRow), ImportedRow.created_at),
        )
        with self._database.reading() as session:
            return sum(
                session.scalar(count if moment is None else count.where(given > moment)) or 0
                for count, given in counts
            )

    def take_in(self, preferences: Iterable[Preference], *, source: str) -> int:
        """Import preferences; those that are here already are left out. Returns how many are new.

        All of them or none: it is one transaction.
        """
        added = 0
        with self._database.session() as session:
            self._database.take_turns(session, IMPORTS_KEY)
            known = set(session.scalars(select(ImportedRow.digest)))
            for each in preferences:
                digest = _digest(each)
                if digest in known:
                    continue
                known.add(digest)
                session.add(
                    ImportedRow(
                        digest=digest,
                        source=source,
                        prompt=[asdict(message) for message in each.prompt],
                        completion=each.completion,
                        rejected=each.rejected,
                        label=each.label,
                        created_at=self._database.now(),
                    )
                )
                added += 1
        return added

    def _usable_turns(self) -> Select[TurnRow]:
        asked_first = (
            select(TurnRow.id)
            .join(PersonRow, PersonRow.id == TurnRow.person_id)
            .where(self._may_teach())
        )
        return (
            select(TurnRow)
            .join(PersonRow, PersonRow.id == TurnRow.person_id)
            .where(
                TurnRow.state == TurnState.FINAL,
                TurnRow.completion != "",
                TurnRow.id.not_in(turns_of_silent_groups()),
                self._may_teach(),
                or_(TurnRow.regenerates_id.is_(None), TurnRow.regenerates_id.in_(asked_first)),
                or_(
                    TurnRow.id.in_(
                        select(FeedbackRow.turn_id).where(FeedbackRow.replaced_at.is_(None))
                    ),
                    TurnRow.id.in_(select(CorrectionRow.turn_id)),
                ),
            )
        )

    def _silent_turns(self) -> Select[TurnRow]:
        """Turns of people, and of groups, that are not to be learned from."""
        silent = [PersonRow.opted_out.is_(True), TurnRow.id.in_(turns_of_silent_groups())]
        if self._only_agreed:
            silent.append(PersonRow.consented_to.is_(None))
        person = PersonRow.id == TurnRow.person_id
        return select(TurnRow).join(PersonRow, person).where(or_(*silent))

    def _may_teach(self) -> ColumnElement[bool]:
        allowed = PersonRow.access.in_((Access.ALLOWED, Access.INVITED))
        admitted = or_(allowed, PersonRow.id.in_(self._admins))
        if self._open_access:
            admitted = or_(admitted, PersonRow.access == Access.UNDECIDED)
        if self._only_agreed:
            admitted &= PersonRow.consented_to.is_not(None)
        return admitted & PersonRow.opted_out.is_(False) & PersonRow.id.not_in(held_back())

    def _votes(self, session: Session, turns: Mapping[int, TurnRow]) -> dict[int, "_Vote"]:
        """What people said of each turn."""
        votes = defaultdict[int, _Vote](_Vote)
        for turn_id, person_id, rating in session.execute(
            select(FeedbackRow.turn_id, FeedbackRow.person_id, FeedbackRow.rating)
            .join(PersonRow, PersonRow.id == FeedbackRow.person_id)
            .where(FeedbackRow.replaced_at.is_(None), self._may_teach())
            .order_by(FeedbackRow.id)
        ):
            if turn_id in turns:
                votes[turn_id].ratings[person_id] = rating
        return votes

    def _corrections(
        self, session: Session, turns: Mapping[int, TurnRow]
    ) -> Sequence[CorrectionRow]:
        """The last correction of each turn by each person."""
        last = select(func.max(CorrectionRow.id)).group_by(
            CorrectionRow.turn_id, CorrectionRow.person_id
        )
        rows = session.scalars(
            select(CorrectionRow)
            .join(PersonRow, PersonRow.id == CorrectionRow.person_id)
            .where(CorrectionRow.id.in_(last), CorrectionRow.text != "", self._may_teach())
            .order_by(CorrectionRow.id)
        )
        return [
            row
            for row in rows
            if row.turn_id in turns
            and row.text.strip() not in ("", turns[row.turn_id].completion.strip())
        ]


def is_held_out(key: str) -> bool:
    """Whether what `key` names is measured on instead of trained on."""
    first = hashlib.sha256(key.encode()).digest()[:8]
    return int.from_bytes(first) < HELD_OUT_SHARE * 2**64


def _turn_is_held_out(row: TurnRow) -> bool:
    return is_held_out(f"turn {row.regenerates_id or row.id}")


def _import_is_held_out(row: ImportedRow) -> bool:
    return is_held_out(f"imported {_prompt_digest(_messages(row))}")


def _finished(row: TurnRow) -> bool:
    return row.finish_reason != FinishReason.LENGTH


def _age(each: AnyExample) -> datetime:
    return each.created_at


def _messages(row: TurnRow | ImportedRow) -> tuple[Message, ...]:
    messages = row.messages if isinstance(row, TurnRow) else row.prompt
    return tuple(Message(**each) for each in messages)


class _Silent:
    """What must not be learned from other people's turns."""

    def __init__(self, turns: Iterable[TurnRow]) -> None:
        self._ids: set[int] = set()
        self._exchanges: set[tuple[int, str, str]] = set()
        for turn in turns:
            self._ids.add(turn.id)
            self._exchanges.add((turn.conversation_id, turn.question, turn.completion))

    def speak_in(self, turn: TurnRow) -> bool:
        """Whether a turn was served with one of these exchanges, as history or as a memory."""
        if any(memory["turn_id"] in self._ids for memory in turn.memories):
            return True
        return any(
            (turn.conversation_id, asked["content"], said["content"]) in self._exchanges
            for asked, said in pairwise(turn.messages)
        )


@dataclass(frozen=True, kw_only=True)
class _Vote:
    """What each person said of a turn."""

    ratings: dict[int, int] = field(default_factory=dict)

    @property
    def lead(self) -> int:
        """How far 👍 leads 👎; 0 is a tie, and teaches nothing."""
        return sum(self.ratings.values())

    @property
    def winners(self) -> tuple[int, ...]:
        """Who said what most said."""
        return tuple(id for id, rating in self.ratings.items() if rating * self.lead > 0)


def _example(row: TurnRow, vote: _Vote) -> Example:
    return Example(
        id=f"t{row.id}",
        prompt=_messages(row),
        completion=row.completion,
        label=vote.lead > 0,
        held_out=_turn_is_held_out(row),
        finished=_finished(row),
        raters=vote.winners,
        created_at=row.created_at,
    )


def _corrected(row: TurnRow, correction: CorrectionRow) -> PreferencePair:
    return PreferencePair(
        id=f"c{correction.id}",
        prompt=_messages(row),
        chosen=correction.text,
        rejected=row.completion,
        rejected_finished=_finished(row),
        held_out=_turn_is_held_out(row),
        raters=(correction.person_id,),
        created_at=correction.created_at,
    )


def _demonstration(row: TurnRow, correction: CorrectionRow) -> Demonstration:
    return Demonstration(
        id=f"d{correction.id}",
        prompt=_messages(row),
        completion=correction.text,
        held_out=_turn_is_held_out(row),
        raters=(correction.person_id,),
        created_at=correction.created_at,
    )


def _regenerated(
    turns: Mapping[int, TurnRow], votes: Mapping[int, _Vote]
) -> Iterable[PreferencePair]:
    """Of two answers to the same question, the one that people liked better."""
    versions = defaultdict[int, list[int]](list)
    for turn_id in votes:
        versions[turns[turn_id].regenerates_id or turn_id].append(turn_id)
    for ids in versions.values():
        for one, other in combinations(sorted(ids), 2):
            better, worse = (one, other) if votes[one].lead > votes[other].lead else (other, one)
            same_prompt = turns[better].messages == turns[worse].messages
            same_text = turns[better].completion.strip() == turns[worse].completion.strip()
            clear = votes[better].lead > 0 >= votes[worse].lead
            if clear and same_prompt and not same_text:
                yield PreferencePair(
                    id=f"p{better}-{worse}",
                    prompt=_messages(turns[better]),
                    chosen=turns[better].completion,
                    rejected=turns[worse].completion,
                    chosen_finished=_finished(turns[better]),
                    rejected_finished=_finished(turns[worse]),
                    held_out=_turn_is_held_out(turns[better]),
                    raters=votes[better].winners,
                    created_at=turns[better].created_at,
                )


def _imported_example(row: ImportedRow) -> Example:
    return Example(
        id=f"i{row.id}",
        prompt=_messages(row),
        completion=row.completion,
        label=bool(row.label),
        held_out=_import_is_held_out(row),
        created_at=row.created_at,
    )


def _imported_pair(row: ImportedRow) -> PreferencePair:
    return PreferencePair(
        id=f"i{row.id}",
        prompt=_messages(row),
        chosen=row.completion,
        rejected=row.rejected or "",
        held_out=_import_is_held_out(row),
        created_at=row.created_at,
    )


def _imported_demonstration(row: ImportedRow) -> Demonstration:
    return Demonstration(
        id=f"i{row.id}",
        prompt=_messages(row),
        completion=row.completion,
        held_out=_import_is_held_out(row),
        created_at=row.created_at,
    )


def _prompt_digest(prompt: Sequence[Message]) -> str:
    text = json.dumps([asdict(message) for message in prompt], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _digest(each: Preference) -> str:
    """The same preference under the same digest; another label makes it another."""
    text = json.dumps(
        [_prompt_digest(each.prompt), each.completion, each.rejected, each.label],
        ensure_ascii=False,
    )
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
