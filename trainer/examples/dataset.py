"""Examples → what a run trains on and what it is measured with: filter, dedupe, balance, replay.

Pure. Invariant: nothing that is held out, nor a copy of it under another turn, is trained on.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

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
from trainer.examples.rater_shares import RaterShares, shared_out
from trainer.recipe import Recipe

LEAST_EXAMPLES = 10
"""Fewer teach nothing that could be measured."""

LEAST_OF_A_KIND = 4
"""Of 👍 and of 👎 each, or KTO pushes in one direction only."""

MOST_IMBALANCE = 4.0
"""How many examples of one label go with one of the other; weights even out the rest."""

MOST_HELD_OUT = 160
"""Held-out examples that are measured: their number drives the seconds of the gate."""

Kind = TypeVar("Kind", bound=AnyExample)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The examples of one run."""

    train: ExampleSet
    held_out: ExampleSet

    @property
    def origins(self) -> dict[Split, list[Origin]]:
        """The origins of its examples, by split."""
        return {
            Split.TRAIN: [each.origin for each in self.train.every],
            Split.HELD_OUT: [each.origin for each in self.held_out.every],
        }

    @property
    def counts(self) -> ExampleCounts:
        """The numbers that people are shown."""
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
    examples: ExampleSet, recipe: Recipe, *, system_prompt: str, voices: RaterShares | None = None
) -> Snapshot:
    """Choose the examples of a run. Raises `NothingToLearn`, with the reason.

    `system_prompt` goes before imported prompts that have none, as it goes before every question.
    """
    voices = voices or RaterShares()
    if recipe.mask:
        examples = _masked(examples)
    unpaired = _settled([_served(each, system_prompt) for each in examples.unpaired])
    pairs = _once([_served(each, system_prompt) for each in examples.pairs])
    demonstrations = _once([_served(each, system_prompt) for each in examples.demonstrations])
    hidden_ones = ExampleSet(
        unpaired=tuple(each for each in unpaired if each.held_out),
        pairs=tuple(each for each in pairs if each.held_out),
    )
    fair = _fair(hidden_ones, voices, recipe, room=MOST_HELD_OUT)
    newest = ExampleSet(unpaired=fair.unpaired[-MOST_HELD_OUT:], pairs=fair.pairs[-MOST_HELD_OUT:])
    held_out = _fair(newest, voices, recipe, room=MOST_HELD_OUT)
    everything: list[AnyExample] = [*unpaired, *pairs, *demonstrations]
    hidden = {reply for each in everything if each.held_out for reply in _replies(each)}
    train = _wanted(
        ExampleSet(
            unpaired=_visible(unpaired, hidden),
            pairs=_visible(pairs, hidden),
            demonstrations=_visible(demonstrations, hidden),
        ),
        recipe,
    )
    fair = _fair(train, voices, recipe, room=recipe.max_examples)
    left_out = len(train.every) - len(fair.every)
    chosen = _fair(_bounded(fair, recipe), voices, recipe, room=recipe.max_examples)
    train = _checked(chosen, left_out)
    return Snapshot(train=train, held_out=held_out)


def _fair(examples: ExampleSet, voices: RaterShares, recipe: Recipe, *, room: int) -> ExampleSet:
    """Nobody has more than their share, of all there are nor of those that are chosen."""
    return shared_out(
        examples,
        voices,
        person_share=recipe.person_share,
        newcomer_share=recipe.newcomer_share,
        room=room,
    )


def _masked(examples: ExampleSet) -> ExampleSet:
    """The same without what is private."""
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


def _masked_prompt(each: AnyExample) -> tuple[Message, ...]:
    return tuple(replace(message, content=mask(message.content)) for message in each.prompt)


def _served(each: Kind, system_prompt: str) -> Kind:
    is_imported = each.origin.kind is OriginKind.IMPORTED
    imported_bare = is_imported and each.prompt[0].role != "system"
    if not imported_bare or not system_prompt:
        return each
    return replace(each, prompt=(Message(role="system", content=system_prompt), *each.prompt))


def _text(each: AnyExample) -> tuple[object, ...]:
    if isinstance(each, PreferencePair):
        return each.prompt, each.chosen.strip(), each.rejected.strip()
    return each.prompt, each.completion.strip()


def _replies(each: AnyExample) -> list[tuple[object, str]]:
    """Every reply that an example shows, with its prompt."""
    if isinstance(each, PreferencePair):
        return [(each.prompt, each.chosen.strip()), (each.prompt, each.rejected.strip())]
    return [(each.prompt, each.completion.strip())]


def _once(examples: Sequence[Kind]) -> list[Kind]:
    """Of copies, one, as the word of all who gave them: the held-out one, else the newest."""
    kept: dict[tuple[object, ...], Kind] = {}
    raters = defaultdict[tuple[object, ...], list[int]](list)
    for each in examples:
        before = kept.get(_text(each))
        raters[_text(each)] += each.raters
        if before is None or not before.held_out:
            kept.pop(_text(each), None)
            kept[_text(each)] = each
    return [replace(each, raters=tuple(dict.fromkeys(raters[text]))) for text, each in kept.items()]


def _settled(examples: Sequence[Example]) -> list[Example]:
    """Copies become one with the label of the majority; where they are even, none.

    However often somebody rated the same, they have one vote: their last word. What nobody said, an
    imported file did.
    """
    votes = defaultdict[tuple[object, ...], dict[object, bool]](dict)
    for each in examples:
        for voter in each.raters or (each.origin,):
            votes[_text(each)][voter] = each.label
    settled = []
    for each in _once(examples):
        said = votes[_text(each)]
        lead = 2 * sum(said.values()) - len(said)
        if lead and each.completion.strip():
            winners = tuple(rater for rater in each.raters if said[rater] == (lead > 0))
            settled.append(replace(each, label=lead > 0, raters=winners))
    return settled


def _visible(examples: Sequence[Kind], hidden: set[tuple[object, str]]) -> tuple[Kind, ...]:
    return tuple(
        each
        for each in examples
        if not each.held_out and not any(reply in hidden for reply in _replies(each))
    )


def _wanted(train: ExampleSet, recipe: Recipe) -> ExampleSet:
    """What the objective learns from. `sft` takes replies that were rated 👍 as demonstrations."""
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
                    created_at=each.created_at,
                )
                for each in train.unpaired
                if each.label and each.finished
            )
            shown = sorted((*liked, *train.demonstrations), key=lambda each: each.created_at)
            return ExampleSet(demonstrations=tuple(_once(shown)))


def _bounded(train: ExampleSet, recipe: Recipe) -> ExampleSet:
    """At most `max_examples`: pairs and demonstrations say more, so they go first."""
    draw = random.Random(recipe.seed)
    room = recipe.max_examples
    spare = room - len(train.demonstrations) - len(train.unpaired)  # what others leave
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
    """The newest, and a sample of what is older than those; oldest first."""
    if len(examples) <= room:
        return tuple(examples)
    replayed = round(room * replay)
    older: int = len(examples) - (room - replayed)  # so many are older than the newest
    places: list[int] = sorted(draw.sample(range(older), replayed))
    kept = [examples[place] for place in places]
    return (*kept, *examples[older:])


def _balanced(
    examples: Sequence[Example], room: int, replay: float, draw: random.Random
) -> tuple[Example, ...]:
    """Half of the room for each label; what one leaves, the other may have, up to a limit."""
    up = [each for each in examples if each.label]
    down = [each for each in examples if not each.label]
    halves = (room - room // 2, room // 2)
    rooms = [max(half, room - len(other)) for half, other in zip(halves, (down, up), strict=True)]
    if up and down:
        most = [round(MOST_IMBALANCE * min(len(other), room // 2)) for other in (down, up)]
        rooms = [min(pair) for pair in zip(rooms, most, strict=True)]
    kept = [
        *_recent_and_replayed(up, rooms[0], replay, draw),
        *_recent_and_replayed(down, rooms[1], replay, draw),
    ]
    return tuple(sorted(kept, key=lambda each: each.created_at))


def _checked(train: ExampleSet, left_out: int) -> ExampleSet:
    """The examples, without thumbs of one kind only: these push in one direction without end.

    Raises `NothingToLearn` for what would be a waste of time.
    """
    count = len(train.every)
    if count < LEAST_EXAMPLES:
        too_many = (
            f"; {left_out} more are left out, because one person or new people gave too large a "
            "share (RATCHET_TRAIN_PERSON_SHARE, RATCHET_TRAIN_NEWCOMER_SHARE)"
        )
        raise NothingToLearn(
            f"There are {count} examples to learn from, and {LEAST_EXAMPLES} are the least"
            f"{too_many if left_out else ''}: rate more replies."
        )
    up = sum(each.label for each in train.unpaired)
    down = len(train.unpaired) - up
    others = len(train.pairs) + len(train.demonstrations)
    one_sided = bool(train.unpaired) and min(up, down) < LEAST_OF_A_KIND
    if one_sided and others < LEAST_EXAMPLES:
        raise NothingToLearn(
            f"There are {up} 👍 and {down} 👎 to learn from, and {LEAST_OF_A_KIND} of each are the "
            "least: rate what is good and what is not."
        )
    return replace(train, unpaired=()) if one_sided else train


def label_weights(up: int, down: int) -> Mapping[bool, float]:
    """Weights that make 👍 and 👎 count alike, the rarer label's above 1 (KTO paper, eq. 8)."""
    if not up or not down:
        return {True: 1.0, False: 1.0}
    return {True: max(1.0, down / up), False: max(1.0, up / down)}
