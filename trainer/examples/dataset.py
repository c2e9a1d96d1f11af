"""Chooses a run's training and held-out examples: filters, merges copies, balances, replays.

Pure. Invariant: no held-out example is trained on, nor a copy of one from another turn.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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
from store.masking import mask
from trainer.errors import NothingToLearn
from trainer.examples.rater_shares import RaterShares, limit_shares
from trainer.recipe import Recipe

MIN_EXAMPLES = 10
"""Examples below which a run is skipped: the result could not be measured."""

MIN_PER_LABEL = 4
"""Least number of 👍, and of 👎: KTO on one label alone changes the model without end."""

MAX_IMBALANCE = 4.0
"""Most examples of one label for each of the other; `label_weights` evens out the rest."""

MAX_HELD_OUT = 160
"""Held-out examples that are measured: the gate's time grows with their number."""

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
    rater_shares: RaterShares | None = None,
) -> Snapshot:
    """Choose the examples of a run. Raises `NothingToLearn`, with the reason.

    `system_prompt` is put before imported prompts that have none, as it is before every question.
    Only examples that are chosen are masked; those that masking makes alike are then merged.
    """
    rater_shares = rater_shares or RaterShares()
    chosen = _choose(examples, recipe, system_prompt, rater_shares)
    if not recipe.mask:
        return chosen
    return _choose(_masked(chosen.all), recipe, system_prompt, rater_shares)


def _choose(
    examples: ExampleSet, recipe: Recipe, system_prompt: str, rater_shares: RaterShares
) -> Snapshot:
    unpaired = _by_majority([_as_served(each, system_prompt) for each in examples.unpaired])
    pairs = _without_copies([_as_served(each, system_prompt) for each in examples.pairs])
    demonstrations = _without_copies(
        [_as_served(each, system_prompt) for each in examples.demonstrations]
    )
    held_out = _choose_held_out(unpaired, pairs, rater_shares, recipe)
    everything: list[AnyExample] = [*unpaired, *pairs, *demonstrations]
    hidden = {reply for each in everything if each.held_out for reply in _replies(each)}
    available = ExampleSet(
        unpaired=_not_hidden(unpaired, hidden),
        pairs=_not_hidden(pairs, hidden),
        demonstrations=_not_hidden(demonstrations, hidden),
    )
    train = _choose_train(available, rater_shares, recipe)
    return Snapshot(train=train, held_out=held_out)


def _choose_held_out(
    unpaired: Sequence[Example],
    pairs: Sequence[PreferencePair],
    rater_shares: RaterShares,
    recipe: Recipe,
) -> ExampleSet:
    """Choose the newest held-out examples; shares hold before the choice and after it."""
    held_out = ExampleSet(
        unpaired=tuple(each for each in unpaired if each.held_out),
        pairs=tuple(each for each in pairs if each.held_out),
    )
    limited = _with_limited_shares(held_out, rater_shares, recipe, room=MAX_HELD_OUT)
    newest = ExampleSet(
        unpaired=limited.unpaired[-MAX_HELD_OUT:], pairs=limited.pairs[-MAX_HELD_OUT:]
    )
    return _with_limited_shares(newest, rater_shares, recipe, room=MAX_HELD_OUT)


def _choose_train(available: ExampleSet, rater_shares: RaterShares, recipe: Recipe) -> ExampleSet:
    """Choose the training examples; shares hold before the choice and after it.

    Raises `NothingToLearn`.
    """
    usable = _for_objective(available, recipe)
    limited = _with_limited_shares(usable, rater_shares, recipe, room=recipe.max_examples)
    left_out = len(usable.every) - len(limited.every)
    chosen = _with_limited_shares(
        _at_most_max_examples(limited, recipe), rater_shares, recipe, room=recipe.max_examples
    )
    return _checked(chosen, left_out)


def _with_limited_shares(
    examples: ExampleSet, rater_shares: RaterShares, recipe: Recipe, *, room: int
) -> ExampleSet:
    return limit_shares(
        examples,
        rater_shares,
        person_share=recipe.person_share,
        newcomer_share=recipe.newcomer_share,
        room=room,
    )


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


def _as_served(each: Kind, system_prompt: str) -> Kind:
    """Put the system prompt before an imported prompt that has none."""
    is_imported = each.origin.kind is OriginKind.IMPORTED
    imported_bare = is_imported and each.prompt[0].role != "system"
    if not imported_bare or not system_prompt:
        return each
    return replace(each, prompt=(Message(role="system", content=system_prompt), *each.prompt))


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
    origins = defaultdict[tuple[object, ...], list[Origin]](list)
    for each in examples:
        texts = _texts(each)
        before = kept.get(texts)
        raters[texts] += each.raters
        origins[texts] += _origins(each)
        if before is None or not before.held_out:
            kept.pop(texts, None)  # so that the newer one stands at the end
            kept[texts] = each
    return [
        replace(
            each,
            raters=tuple(dict.fromkeys(raters[texts])),
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
        for voter in each.raters or (each.origin,):
            given[voter] = each.label
    merged = []
    for each in _without_copies(examples):
        labels = votes[_texts(each)]
        lead = 2 * sum(labels.values()) - len(labels)
        if lead and each.completion.strip():
            winners = tuple(rater for rater in each.raters if labels[rater] == (lead > 0))
            merged.append(replace(each, label=lead > 0, raters=winners))
    return merged


def _not_hidden(examples: Sequence[Kind], hidden: set[tuple[object, str]]) -> tuple[Kind, ...]:
    """Return the examples that are not held out and share no reply with one that is."""
    return tuple(
        each
        for each in examples
        if not each.held_out and not any(reply in hidden for reply in _replies(each))
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
                "a share (RATCHET_TRAIN_PERSON_SHARE, RATCHET_TRAIN_NEWCOMER_SHARE)."
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
