"""Training examples, from rated turns, corrections, regenerated answers and imported files.

Invariant: only a hash of the turn that an example comes from (of the first answer, for a
regenerated one) decides whether it is held out, so that an example that is held out once is never
trained on, whatever is rated later.
"""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import combinations

from sqlalchemy import func, select

from store.database import Database, Lock, in_parts
from store.domain import (
    AnyExample,
    Demonstration,
    Example,
    ExampleSet,
    FinishReason,
    Message,
    Origin,
    OriginKind,
    PreferencePair,
)
from store.opinions import Opinion, read_opinions
from store.rated_turns import rated_turns
from store.tables import CorrectionRow, FeedbackRow, ImportedRow, TurnRow
from store.teaching import TeachingRule, in_silent_group

MOST_COUNTED = 10_000
"""The number up to which ratings are counted: no schedule waits for more."""

HELD_OUT_SHARE = 0.2
"""The share that is held out. No setting: another share would train on what was held out."""


@dataclass(frozen=True, kw_only=True)
class Preference:
    """A line of a preference file: a labelled or demonstrated completion, or a pair."""

    prompt: tuple[Message, ...]
    completion: str
    rejected: str | None = None
    label: bool | None = None


class Examples:
    """The training examples of one database.

    `TeachingRule` decides who may teach; imported examples always do.
    """

    def __init__(self, database: Database, rule: TeachingRule | None = None) -> None:
        self._database = database
        self._rule = rule or TeachingRule()

    def collect(self, most: int | None = None, *, seed: int = 0) -> ExampleSet:
        """Return the examples to train on and to measure with, each kind oldest first.

        With `most`, only the newest so many turns are read, of which one rater has at most a
        quarter, and as many again, drawn at random from older ones.
        """
        with self._database.reading() as session:
            ids = rated_turns(session, self._rule, most, random.Random(seed))
            turns: dict[int, TurnRow] = {}
            for part in in_parts(ids):
                usable = select(TurnRow).where(TurnRow.id.in_(part), self._rule.turns)
                turns |= {row.id: row for row in session.scalars(usable)}
            opinions = read_opinions(
                session, turns, ratings=self._rule.ratings, corrections=self._rule.corrections
            )
            newest = select(ImportedRow).order_by(ImportedRow.id.desc()).limit(most)
            imported = session.scalars(newest).all()[::-1]
        votes = {id: opinions[id] for id in turns if id in opinions and opinions[id].ratings}
        rated = [_example(turns[id], vote) for id, vote in votes.items() if vote.lead]
        pairs = list(_regenerated(turns, votes))
        demonstrations = []
        for id, row in turns.items():
            standing = opinions[id].standing() if id in opinions else ()
            for correction in reversed(standing):
                if correction.text.strip() not in ("", row.completion.strip()):
                    pairs.append(_corrected(row, correction))
                    demonstrations.append(_demonstration(row, correction))
        for each in imported:
            if each.rejected is not None:
                pairs.append(_imported_pair(each))
            elif each.label is not None:
                rated.append(_imported_example(each))
            else:
                demonstrations.append(_imported_demonstration(each))
        return ExampleSet(
            unpaired=tuple(sorted(rated, key=_age)),
            pairs=tuple(sorted(pairs, key=_age)),
            demonstrations=tuple(sorted(demonstrations, key=_age)),
        )

    def ratings_since(self, moment: datetime | None) -> int:
        """Count ratings and corrections that may teach, and imports, after a moment, up to a limit.

        None counts from the beginning.
        """
        counts = (
            (
                select(FeedbackRow.id)
                .join(TurnRow, TurnRow.id == FeedbackRow.turn_id)
                .where(
                    FeedbackRow.replaced_at.is_(None),
                    self._rule.ratings,
                    ~in_silent_group(TurnRow.conversation_id),
                ),
                FeedbackRow.created_at,
            ),
            (
                select(CorrectionRow.id)
                .join(TurnRow, TurnRow.id == CorrectionRow.turn_id)
                .where(
                    self._rule.corrections,
                    ~in_silent_group(TurnRow.conversation_id),
                ),
                CorrectionRow.created_at,
            ),
            (select(ImportedRow.id), ImportedRow.created_at),
        )
        with self._database.reading() as session:
            return sum(
                session.scalar(
                    select(func.count()).select_from(
                        (query if moment is None else query.where(given > moment))
                        .limit(MOST_COUNTED)
                        .subquery()
                    )
                )
                or 0
                for query, given in counts
            )

    def take_in(self, preferences: Iterable[Preference], *, source: str) -> int:
        """Import the preferences that are not here yet, and return their number.

        Either all of them are imported or none: it is one transaction.
        """
        added = 0
        with self._database.session() as session:
            self._database.lock(session, Lock.IMPORTS)
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


def is_held_out(key: str) -> bool:
    """Return whether the example with a key is measured on instead of trained on."""
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


def _example(row: TurnRow, vote: Opinion) -> Example:
    return Example(
        origin=Origin(kind=OriginKind.RATED, turn_id=row.id),
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
        origin=Origin(kind=OriginKind.CORRECTED, turn_id=row.id, correction_id=correction.id),
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
        origin=Origin(kind=OriginKind.DEMONSTRATED, turn_id=row.id, correction_id=correction.id),
        prompt=_messages(row),
        completion=correction.text,
        held_out=_turn_is_held_out(row),
        raters=(correction.person_id,),
        created_at=correction.created_at,
    )


def _regenerated(
    turns: Mapping[int, TurnRow], votes: Mapping[int, Opinion]
) -> Iterable[PreferencePair]:
    """Yield pairs of answers to the same question, of which people liked one better."""
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
                    origin=Origin(kind=OriginKind.REGENERATED, turn_id=better, other_turn_id=worse),
                    prompt=_messages(turns[better]),
                    chosen=turns[better].completion,
                    rejected=turns[worse].completion,
                    chosen_finished=_finished(turns[better]),
                    rejected_finished=_finished(turns[worse]),
                    held_out=_turn_is_held_out(turns[better]),
                    raters=votes[better].winners,
                    created_at=turns[better].created_at,
                )


def _imported(row: ImportedRow) -> Origin:
    return Origin(kind=OriginKind.IMPORTED, imported_id=row.id)


def _imported_example(row: ImportedRow) -> Example:
    return Example(
        origin=_imported(row),
        prompt=_messages(row),
        completion=row.completion,
        label=bool(row.label),
        held_out=_import_is_held_out(row),
        created_at=row.created_at,
    )


def _imported_pair(row: ImportedRow) -> PreferencePair:
    return PreferencePair(
        origin=_imported(row),
        prompt=_messages(row),
        chosen=row.completion,
        rejected=row.rejected or "",
        held_out=_import_is_held_out(row),
        created_at=row.created_at,
    )


def _imported_demonstration(row: ImportedRow) -> Demonstration:
    return Demonstration(
        origin=_imported(row),
        prompt=_messages(row),
        completion=row.completion,
        held_out=_import_is_held_out(row),
        created_at=row.created_at,
    )


def _prompt_digest(prompt: Sequence[Message]) -> str:
    text = json.dumps([asdict(message) for message in prompt], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _digest(each: Preference) -> str:
    """Return a digest that only an equal preference has, its label included."""
    text = json.dumps(
        [_prompt_digest(each.prompt), each.completion, each.rejected, each.label],
        ensure_ascii=False,
    )
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
