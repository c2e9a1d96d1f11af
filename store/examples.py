"""Training examples, from rated turns, corrections, regenerated answers and imported files.

Invariant: only the split (`store/split.py`) decides whether an example is held out, so that one
that is held out once is never trained on, whatever is rated later.
"""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import combinations

from sqlalchemy import func, select

from store.database import Database, in_parts
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
from store.split import Split, read_split
from store.tables import CorrectionRow, FeedbackRow, ImportedRow, ImportRow, TurnRow
from store.teaching import TeachingRule, in_silent_group

MOST_COUNTED = 10_000
"""The number up to which ratings are counted: no schedule waits for more."""


class Examples:
    """The training examples of one database.

    `TeachingRule` decides who may teach; imported examples always do. The rater of those of an
    import that is not trusted is the import: its id, negative.
    """

    def __init__(self, database: Database, rule: TeachingRule | None = None) -> None:
        self._database = database
        self._rule = rule or TeachingRule()

    def collect(self, most: int | None = None, *, seed: int = 0) -> ExampleSet:
        """Return the examples to train on and to measure with, each kind oldest first.

        With `most`, only the newest so many turns are read, of which one rater has at most a
        quarter, and as many again, drawn at random from older ones.
        """
        split = read_split(self._database)
        with self._database.reading() as session:
            ids = rated_turns(session, self._rule, most, random.Random(seed))
            turns: dict[int, TurnRow] = {}
            for part in in_parts(ids):
                usable = select(TurnRow).where(TurnRow.id.in_(part), self._rule.turns)
                turns |= {row.id: row for row in session.scalars(usable)}
            opinions = read_opinions(
                session, turns, ratings=self._rule.ratings, corrections=self._rule.corrections
            )
            newest = (
                select(ImportedRow, ImportRow.trusted)
                .join(ImportRow, ImportRow.id == ImportedRow.import_id)
                .order_by(ImportRow.trusted.desc(), ImportedRow.id.desc())
                .limit(most)
            )
            imported = [(row, trusted) for row, trusted in session.execute(newest)][::-1]
        votes = {id: opinions[id] for id in turns if id in opinions and opinions[id].ratings}
        rated = [_example(turns[id], vote, split) for id, vote in votes.items() if vote.lead]
        pairs = list(_regenerated(turns, votes, split))
        demonstrations = []
        for id, row in turns.items():
            standing = opinions[id].standing() if id in opinions else ()
            for correction in reversed(standing):
                if correction.text.strip() not in ("", row.completion.strip()):
                    pairs.append(_corrected(row, correction, split))
                    demonstrations.append(_demonstration(row, correction, split))
        for each, trusted in imported:
            raters = () if trusted else (-each.import_id,)
            if each.rejected is not None:
                pairs.append(_imported_pair(each, raters, split))
            elif each.label is not None:
                rated.append(_imported_example(each, raters, split))
            else:
                demonstrations.append(_imported_demonstration(each, raters, split))
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


def _turn_is_held_out(row: TurnRow, split: Split) -> bool:
    return split.holds_out_turn(row.regenerates_id or row.id)


def _finished(row: TurnRow) -> bool:
    return row.finish_reason != FinishReason.LENGTH


def _age(each: AnyExample) -> datetime:
    return each.created_at


def _messages(row: TurnRow | ImportedRow) -> tuple[Message, ...]:
    messages = row.messages if isinstance(row, TurnRow) else row.prompt
    return tuple(Message(**each) for each in messages)


def _example(row: TurnRow, vote: Opinion, split: Split) -> Example:
    return Example(
        origin=Origin(kind=OriginKind.RATED, turn_id=row.id),
        prompt=_messages(row),
        completion=row.completion,
        label=vote.lead > 0,
        held_out=_turn_is_held_out(row, split),
        finished=_finished(row),
        raters=vote.winners,
        outvoted=vote.outvoted,
        rated_at=tuple(vote.rated_at[person] for person in (*vote.winners, *vote.outvoted)),
        created_at=row.created_at,
    )


def _corrected(row: TurnRow, correction: CorrectionRow, split: Split) -> PreferencePair:
    return PreferencePair(
        origin=Origin(kind=OriginKind.CORRECTED, turn_id=row.id, correction_id=correction.id),
        prompt=_messages(row),
        chosen=correction.text,
        rejected=row.completion,
        rejected_finished=_finished(row),
        held_out=_turn_is_held_out(row, split),
        raters=(correction.person_id,),
        created_at=correction.created_at,
    )


def _demonstration(row: TurnRow, correction: CorrectionRow, split: Split) -> Demonstration:
    return Demonstration(
        origin=Origin(kind=OriginKind.DEMONSTRATED, turn_id=row.id, correction_id=correction.id),
        prompt=_messages(row),
        completion=correction.text,
        held_out=_turn_is_held_out(row, split),
        raters=(correction.person_id,),
        created_at=correction.created_at,
    )


def _regenerated(
    turns: Mapping[int, TurnRow], votes: Mapping[int, Opinion], split: Split
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
                    held_out=_turn_is_held_out(turns[better], split),
                    raters=votes[better].winners,
                    outvoted=votes[better].outvoted,
                    created_at=turns[better].created_at,
                )


def _imported(row: ImportedRow) -> Origin:
    return Origin(kind=OriginKind.IMPORTED, imported_id=row.id)


def _imported_example(row: ImportedRow, raters: tuple[int, ...], split: Split) -> Example:
    return Example(
        origin=_imported(row),
        prompt=_messages(row),
        completion=row.completion,
        label=bool(row.label),
        held_out=split.holds_out_import(row.id, _prompt_digest(_messages(row))),
        raters=raters,
        created_at=row.created_at,
    )


def _imported_pair(row: ImportedRow, raters: tuple[int, ...], split: Split) -> PreferencePair:
    return PreferencePair(
        origin=_imported(row),
        prompt=_messages(row),
        chosen=row.completion,
        rejected=row.rejected or "",
        held_out=split.holds_out_import(row.id, _prompt_digest(_messages(row))),
        raters=raters,
        created_at=row.created_at,
    )


def _imported_demonstration(
    row: ImportedRow, raters: tuple[int, ...], split: Split
) -> Demonstration:
    return Demonstration(
        origin=_imported(row),
        prompt=_messages(row),
        completion=row.completion,
        held_out=split.holds_out_import(row.id, _prompt_digest(_messages(row))),
        raters=raters,
        created_at=row.created_at,
    )


def _prompt_digest(prompt: Sequence[Message]) -> str:
    text = json.dumps([asdict(message) for message in prompt], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def preference_sha256(
    prompt: Sequence[Message], completion: str, *, rejected: str | None, label: bool | None
) -> str:
    """Return a hash that only an equal preference has, its label included."""
    text = json.dumps([_prompt_digest(prompt), completion, rejected, label], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
