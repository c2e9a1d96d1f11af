"""Audits raters: finds people whose ratings look like an attack, and how far others agree.

There are three signs of an attack: somebody's ratings contradict a model that is fitted on other
people's; the ratings of people who rate together do, taken together; or somebody's corrections
plant something. None is proof, so the ratings are held back for an admin to look at
(`/quarantine`), and never deleted.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from store.domain import ExampleSet
from store.embedder import Embedder
from trainer.examples.agreement import (
    MIN_RATINGS,
    Agreement,
    is_contrary,
    measure_agreement,
    relative_agreement,
)
from trainer.examples.planted_text import find_planting
from trainer.examples.rater_groups import find_groups


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The result of an audit."""

    suspects: Mapping[int, str]
    """People whom an admin should look at, with the reason."""
    agreement: Mapping[int, float] | None
    """Agreement with others by person, as in `RaterTrust`."""
    groups: tuple[frozenset[int], ...]
    """People who rate together."""


def examine(
    examples: ExampleSet,
    embedder: Embedder,
    *,
    trusted: Collection[int],
    vouched: Collection[int] = (),
    newcomers: Collection[int] = (),
) -> Findings:
    """Audit everybody's ratings and corrections. People who are `trusted` are never suspects.

    `vouched` people are those whom an admin vouched for, `newcomers` those who are new.
    """
    suspects = dict(find_planting(examples, embedder, trusted=trusted))
    groups = find_groups(examples.unpaired)
    measured: Mapping[int, Agreement] = {}
    if _could_be_judged(examples):
        measured = measure_agreement(
            examples.unpaired, embedder, vouched=vouched, newcomers=newcomers
        )
    for person, each in measured.items():
        if each.is_contrary:
            wrong = int((each.labels != each.predicted).sum())
            suspects.setdefault(
                person,
                f"{wrong} of {len(each.labels)} ratings are the opposite of what others' say",
            )
    for group in groups:
        for person, reason in _contrary_members(group, measured).items():
            suspects.setdefault(person, reason)
    return Findings(
        suspects={
            person: reason
            for person, reason in suspects.items()
            if person >= 0 and person not in trusted
        },
        agreement=relative_agreement(measured, vouched=vouched, newcomers=newcomers),
        groups=groups,
    )


def _could_be_judged(examples: ExampleSet) -> bool:
    """Return whether there are as many votes as it takes to judge anybody: embedding takes long."""
    return sum(len(each.raters) + len(each.outvoted) for each in examples.unpaired) >= MIN_RATINGS


def _contrary_members(
    group: frozenset[int], measured: Mapping[int, Agreement]
) -> Mapping[int, str]:
    """Return the members of a group whose ratings all together contradict others', with a reason.

    A reply that several of them rated counts once. Who agrees for the better part is none of them.
    """
    members = [person for person in group if person in measured]
    by_reply = {
        turn: (label, predicted)
        for person in members
        for turn, label, predicted in zip(
            measured[person].turns, measured[person].labels, measured[person].predicted, strict=True
        )
    }
    labels = np.array([label for label, _ in by_reply.values()], dtype=bool)
    predicted = np.array([predicted for _, predicted in by_reply.values()], dtype=bool)
    if not is_contrary(labels, predicted):
        return {}
    wrong = int((labels != predicted).sum())
    reason = (
        f"rates together with {len(members) - 1} others, and {wrong} of their {len(labels)} "
        "ratings are the opposite of what others' say"
    )
    return {
        person: reason
        for person in members
        if (measured[person].labels == measured[person].predicted).mean() < 0.5
    }
