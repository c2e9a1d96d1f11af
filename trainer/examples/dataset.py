"""Chooses a run's training and held-out examples: filters, merges copies, balances, replays.

Pure. Invariant: no held-out example is trained on, nor a copy of one from another turn.
"""

import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TypeVar, assert_never

from store.domain import (
    AnyExample,
    Demonstration,
    Example,
    ExampleCounts,
    ExampleSet,
    Message,
    Origin,
    OriginKind,
    PreferencePair,
    Split,
)
from store.golden_answers import GoldenAnswer, plain_question
from store.masking import mask
from trainer.errors import NothingToLearn
from trainer.examples.rater_shares import Limits, RaterTrust, limit_shares
from trainer.recipe import Recipe

MIN_EXAMPLES = 10
"""Examples below which a run is skipped: the result could not be measured."""

MIN_PER_LABEL = 4
"""Least number of 👍, and of 👎: KTO on one label alone changes the model without end."""

MAX_IMBALANCE = 4.0
"""Most examples of one label for each of the other; `label_weights` evens out the rest."""

MAX_HELD_OUT = 160
"""Held-out thumbs, and pairs, that are measured: the gate's time grows with their number."""

ENOUGH_TO_TRAIN, ENOUGH_FOR_EXAM = 50, 20
"""Examples by people whom an admin vouched for that make a run, or an exam, by themselves."""

MOST_OF_EXAM = 0.1
"""Largest share of these that one person gives, unless only a few people rated."""

Kind = TypeVar("Kind", bound=AnyExample)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The examples of one run."""

    train: ExampleSet
    held_out: ExampleSet

    @property
    def origins(self) -> dict[Split, list[Origin]]:
        """Origins of the examples, by split, which are stored with the run."""
        return {
            Split.TRAIN: [origin for each in self.train.every for origin in _origins(each)],
            Split.HELD_OUT: [origin for each in self.held_out.every for origin in _origins(each)],
        }

    @property
    def all(self) -> ExampleSet:
        """The training and the held-out examples together, each kind oldest first."""
        train, held_out = self.train, self.held_out
        return ExampleSet(
            unpaired=_by_age((*train.unpaired, *held_out.unpaired)),
            pairs=_by_age((*train.pairs, *held_out.pairs)),
            demonstrations=_by_age((*train.demonstrations, *held_out.demonstrations)),
        )

    @property
    def counts(self) -> ExampleCounts:
        """Numbers of examples by kind, which people are shown."""
        up = sum(each.label for each in self.train.unpaired)
        return ExampleCounts(
            train=len(self.train.every),
            held_out=len(self.held_out.every),
            positive=up,
            negative=len(self.train.unpaired) - up,
            pairs=len(self.train.pairs),
            demonstrations=len(self.train.demonstrations),
        )


def take_snapshot(
    examples: ExampleSet,
    recipe: Recipe,
    *,
    system_prompt: str,
    trust: RaterTrust | None = None,
    golden: Sequence[GoldenAnswer] = (),
) -> Snapshot:
    """Choose the examples of a run. Raises `NothingToLearn`, with the reason.

    `system_prompt` is put before imported prompts that have none, as it is before every question.
    No answer to the question of a `golden` answer is trained on.
    Only examples that are chosen are masked; those that masking makes alike are then merged.
    """
    trust = trust or RaterTrust()
    chosen = _choose(examples, recipe, system_prompt, trust, golden)
    if not recipe.mask:
        return chosen
    return _choose(_masked(chosen.all), recipe, system_prompt, trust, golden)


def _choose(
    examples: ExampleSet,
    recipe: Recipe,
    system_prompt: str,
    trust: RaterTrust,
    golden: Sequence[GoldenAnswer],
) -> Snapshot:
    unpaired = _by_majority([_as_served(each, system_prompt) for each in examples.unpaired])
    pairs = _without_copies([_as_served(each, system_prompt) for each in examples.pairs])
    demonstrations = _without_copies(
        [_as_served(each, system_prompt) for each in examples.demonstrations]
    )
    held_out = _choose_held_out(unpaired, pairs, trust, recipe)
    everything: list[AnyExample] = [*unpaired, *pairs, *demonstrations]
    hidden = {reply for each in everything if each.held_out for reply in _replies(each)}
    questions = {each.question for each in golden}
    turns = {each.turn_id for each in golden} - {None}
    available = ExampleSet(
        unpaired=_not_golden(_not_hidden(unpaired, hidden), questions, turns),
        pairs=_not_golden(_not_hidden(pairs, hidden), questions, turns),
        demonstrations=_not_golden(_not_hidden(demonstrations, hidden), questions, turns),
    )
    train = _choose_train(available, trust, recipe)
    return Snapshot(train=train, held_out=held_out)


def _choose_held_out(
    unpaired: Sequence[Example],
    pairs: Sequence[PreferencePair],
    trust: RaterTrust,
    recipe: Recipe,
) -> ExampleSet:
    """Choose the held-out examples that are measured with: thumbs and pairs each by themselves.

    Those of admins and of people whom they vouched for come first, then those of proven people.
    Nobody but an admin gives more than `MOST_OF_EXAM`.
    """
    limits = Limits(
        room=MAX_HELD_OUT,
        person_share=min(MOST_OF_EXAM, recipe.person_share),
        unproven_share=recipe.newcomer_share,
        unvouched_share=recipe.unvouched_share,
        enough=ENOUGH_FOR_EXAM,
        unvouched_room=MAX_HELD_OUT,
    )
    thumbs = ExampleSet(unpaired=tuple(each for each in unpaired if each.held_out))
    others = ExampleSet(pairs=tuple(each for each in pairs if each.held_out))
    return ExampleSet(
        unpaired=limit_shares(thumbs, trust, limits, best_first=True).unpaired,
        pairs=limit_shares(others, trust, limits, best_first=True).pairs,
    )


def _choose_train(available: ExampleSet, trust: RaterTrust, recipe: Recipe) -> ExampleSet:
    """Choose the training examples; shares hold before the choice and after it.

    Raises `NothingToLearn`.
    """
    usable = _for_objective(available, recipe)
    limits = Limits(
        room=recipe.max_examples,
        person_share=recipe.person_share,
        unproven_share=recipe.newcomer_share,
        unvouched_share=recipe.unvouched_share,
        enough=ENOUGH_TO_TRAIN,
        unvouched_room=recipe.max_examples // 2,
    )
    limited = limit_shares(usable, trust, limits)
    left_out = len(usable.every) - len(limited.every)
    chosen = limit_shares(_at_most_max_examples(limited, recipe), trust, limits)
    return _checked(chosen, left_out)


def _masked(examples: ExampleSet) -> ExampleSet:
    """Mask private data in all texts."""
    return ExampleSet(
        unpaired=tuple(
            replace(each, prompt=_masked_prompt(each), completion=mask(each.completion))
            for each in examples.unpaired
        ),
        pairs=tuple(
            replace(
                each,
                prompt=_masked_prompt(each),
                chosen=mask(each.chosen),
                rejected=mask(each.rejected),
            )
            for each in examples.pairs
        ),
        demonstrations=tuple(
            replace(each, prompt=_masked_prompt(each), completion=mask(each.completion))
            for each in examples.demonstrations
        ),
    )


def _by_age(examples: Iterable[Kind]) -> tuple[Kind, ...]:
    return tuple(sorted(examples, key=lambda each: each.created_at))


def _masked_prompt(each: AnyExample) -> tuple[Message, ...]:
    return tuple(replace(message, content=mask(message.content)) for message in each.prompt)


def with_system_prompt(prompt: tuple[Message, ...], system_prompt: str) -> tuple[Message, ...]:
    """Put the system prompt before a prompt that has none."""
    if not system_prompt or prompt[0].role == "system":
        return prompt
    return (Message(role="system", content=system_prompt), *prompt)


def _as_served(each: Kind, system_prompt: str) -> Kind:
    """Put the system prompt before an imported prompt that has none."""
    if each.origin.kind is not OriginKind.IMPORTED:
        return each
    return replace(each, prompt=with_system_prompt(each.prompt, system_prompt))


def _origins(each: AnyExample) -> tuple[Origin, ...]:
    """Return the origins of an example and of the copies that were merged into it."""
    return (each.origin, *each.copies)


def _texts(each: AnyExample) -> tuple[object, ...]:
    """Return all that two copies of an example have in common."""
    if isinstance(each, PreferencePair):
        return each.prompt, each.chosen.strip(), each.rejected.strip()
    return each.prompt, each.completion.strip()


def _replies(each: AnyExample) -> list[tuple[object, str]]:
    """Return every reply of an example, with its prompt."""
    if isinstance(each, PreferencePair):
        return [(each.prompt, each.chosen.strip()), (each.prompt, each.rejected.strip())]
    return [(each.prompt, each.completion.strip())]


def _without_copies(examples: Sequence[Kind]) -> list[Kind]:
    """Merge copies into one of them, the held-out one or else the newest, with all raters."""
    kept: dict[tuple[object, ...], Kind] = {}
    raters = defaultdict[tuple[object, ...], list[int]](list)
    outvoted = defaultdict[tuple[object, ...], list[int]](list)
    origins = defaultdict[tuple[object, ...], list[Origin]](list)
    for each in examples:
        texts = _texts(each)
        before = kept.get(texts)
        raters[texts] += each.raters
        outvoted[texts] += each.outvoted
        origins[texts] += _origins(each)
        if before is None or not before.held_out:
            kept.pop(texts, None)  # so that the newer one stands at the end
            kept[texts] = each
    return [
        replace(
            each,
            raters=tuple(dict.fromkeys(raters[texts])),
            outvoted=tuple(set(outvoted[texts]) - set(raters[texts])),
            copies=tuple(origin for origin in origins[texts] if origin != each.origin),
        )
        for texts, each in kept.items()
    ]


def _by_majority(examples: Sequence[Example]) -> list[Example]:
    """Merge copies into one with the majority's label; drop those with a tie, and empty replies.

    Each person has one vote, their latest rating; each imported example has a vote of its own.
    """
    votes = defaultdict[tuple[object, ...], dict[object, bool]](dict)
    for each in examples:
        given = votes[_texts(each)]
        for person, label, _ in each.votes:
            given[person] = label
        if not each.raters:
            given[each.origin] = each.label
    merged = []
    for each in _without_copies(examples):
        labels = votes[_texts(each)]
        lead = 2 * sum(labels.values()) - len(labels)
        if lead and each.completion.strip():
            people = [voter for voter in labels if isinstance(voter, int)]
            merged.append(
                replace(
                    each,
                    label=lead > 0,
                    raters=tuple(person for person in people if labels[person] == (lead > 0)),
                    outvoted=tuple(person for person in people if labels[person] != (lead > 0)),
                    rated_at=(),
                )
            )
    return merged


def _not_hidden(examples: Sequence[Kind], hidden: set[tuple[object, str]]) -> tuple[Kind, ...]:
    """Return the examples that are not held out and share no reply with one that is."""
    return tuple(
        each
        for each in examples
        if not each.held_out and not any(reply in hidden for reply in _replies(each))
    )


def _not_golden(
    examples: Sequence[Kind], questions: Collection[str], turns: AbstractSet[int | None]
) -> tuple[Kind, ...]:
    """Return the examples that are of none of the turns, and answer none of the questions."""
    return tuple(
        each
        for each in examples
        if plain_question(each.prompt) not in questions
        and turns.isdisjoint({each.origin.turn_id, each.origin.other_turn_id})
    )


def _for_objective(train: ExampleSet, recipe: Recipe) -> ExampleSet:
    """Return the kinds that the objective trains on; `sft` takes replies with 👍, too."""
    match recipe.objective:
        case "auto":
            return train
        case "kto":
            return ExampleSet(unpaired=train.unpaired)
        case "dpo":
            return ExampleSet(pairs=train.pairs)
        case "sft":
            liked = tuple(
                Demonstration(
                    origin=each.origin,
                    prompt=each.prompt,
                    completion=each.completion,
                    held_out=False,
                    raters=each.raters,
                    outvoted=each.outvoted,
                    copies=each.copies,
                    created_at=each.created_at,
                )
                for each in train.unpaired
                if each.label and each.finished
            )
            shown = sorted((*liked, *train.demonstrations), key=lambda each: each.created_at)
            return ExampleSet(demonstrations=tuple(_without_copies(shown)))
        case _:
            assert_never(recipe.objective)


def _at_most_max_examples(train: ExampleSet, recipe: Recipe) -> ExampleSet:
    """Choose up to `max_examples`, pairs and demonstrations first: they say more than a thumb."""
    draw = random.Random(recipe.seed)
    room = recipe.max_examples
    spare = room - len(train.demonstrations) - len(train.unpaired)  # left over by other kinds
    pairs = _recent_and_replayed(train.pairs, max(room // 2, spare), recipe.replay, draw)
    room -= len(pairs)
    spare = room - len(train.unpaired)
    demonstrations = _recent_and_replayed(
        train.demonstrations, max(room // 2, spare), recipe.replay, draw
    )
    room -= len(demonstrations)
    unpaired = _balanced(train.unpaired, room, recipe.replay, draw)
    return ExampleSet(unpaired=unpaired, pairs=pairs, demonstrations=demonstrations)


def _recent_and_replayed(
    examples: Sequence[Kind], room: int, replay: float, draw: random.Random
) -> tuple[Kind, ...]:
    """Return up to `room` examples, oldest first: the newest, and a sample of all older ones.

    `replay` is the share of the room that the sample takes.
    """
    if len(examples) <= room:
        return tuple(examples)
    replayed = round(room * replay)
    older: int = len(examples) - (room - replayed)
    sample: list[int] = sorted(draw.sample(range(older), replayed))
    return (*(examples[number] for number in sample), *examples[older:])


def _balanced(
    examples: Sequence[Example], room: int, replay: float, draw: random.Random
) -> tuple[Example, ...]:
    """Give each label half of the room, and what the other label leaves, up to `MAX_IMBALANCE`."""
    up = [each for each in examples if each.label]
    down = [each for each in examples if not each.label]
    room_up = max(room - room // 2, room - len(down))
    room_down = max(room // 2, room - len(up))
    if up and down:
        room_up = min(room_up, round(MAX_IMBALANCE * min(len(down), room // 2)))
        room_down = min(room_down, round(MAX_IMBALANCE * min(len(up), room // 2)))
    kept = [
        *_recent_and_replayed(up, room_up, replay, draw),
        *_recent_and_replayed(down, room_down, replay, draw),
    ]
    return tuple(sorted(kept, key=lambda each: each.created_at))


def _checked(train: ExampleSet, left_out: int) -> ExampleSet:
    """Return the examples; without the ratings, if there are too few of one label.

    Raises `NothingToLearn` if too little is left. `left_out` examples exceeded somebody's share.
    """
    count = len(train.every)
    if count < MIN_EXAMPLES:
        reason = f"There are {count} examples to learn from; at least {MIN_EXAMPLES} are needed."
        if left_out:
            reason += (
                f" {left_out} more were left out, because one person or new people gave too large "
                "a share (RATCHET_TRAIN_PERSON_SHARE, RATCHET_TRAIN_NEWCOMER_SHARE), or nobody "
                "vouched for them (/people)."
            )
        raise NothingToLearn(f"{reason} Please rate more replies.")
    up = sum(each.label for each in train.unpaired)
    down = len(train.unpaired) - up
    others = len(train.pairs) + len(train.demonstrations)
    one_sided = bool(train.unpaired) and min(up, down) < MIN_PER_LABEL
    if one_sided and others < MIN_EXAMPLES:
        raise NothingToLearn(
            f"There are {up} 👍 and {down} 👎 to learn from; at least {MIN_PER_LABEL} of each are "
            "needed. Please rate both good and bad replies."
        )
    return replace(train, unpaired=()) if one_sided else train


def label_weights(up: int, down: int) -> Mapping[bool, float]:
    """Return the weights that make 👍 and 👎 count alike: 1 for the more frequent label, more for
    the other (KTO paper, eq. 8).
    """
    if not up or not down:
        return {True: 1.0, False: 1.0}
    return {True: max(1.0, down / up), False: max(1.0, up / down)}
