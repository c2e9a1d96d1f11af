"""Examples and recipes by the dozen, for tests of what is made of them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from store.adapter_files import hash_adapter
from store.domain import (
    Adapter,
    Demonstration,
    Example,
    Message,
    Origin,
    OriginKind,
    PreferencePair,
)
from store.settings import Settings, make_settings
from tests.records import make_adapter, make_example
from trainer.recipe import Recipe

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


def settings(**changes: object) -> Settings:
    """Return the default settings, whatever the machine's own are."""
    return make_settings(**changes)


def recipe(**changes: object) -> Recipe:
    return replace(Recipe.of(settings().train), **changes)  # type: ignore[arg-type]


def asked(question: str, *, system: str = "") -> tuple[Message, ...]:
    before = (Message(role="system", content=system),) if system else ()
    return (*before, Message(role="user", content=question))


def candidate(folder: Path, base_model: str) -> Adapter:
    """Return the adapter in a folder, as the registry would."""
    sha256 = hash_adapter(folder)
    return make_adapter(
        name=f"a1-{sha256[:8]}", sha256=sha256, base_model=base_model, path=str(folder)
    )


def minute(number: int) -> datetime:
    """Return the time of an example: examples are made in the order of their numbers."""
    return BEGINNING + timedelta(minutes=number)


def origin(kind: OriginKind, number: int, *, imported: bool = False) -> Origin:
    """Return the origin of the example with a number."""
    if imported:
        return Origin(kind=OriginKind.IMPORTED, imported_id=number)
    if kind is OriginKind.RATED:
        return Origin(kind=kind, turn_id=number)
    return Origin(kind=kind, correction_id=number)


def rated(
    number: int,
    label: bool = True,
    *,
    question: str | None = None,
    reply: str | None = None,
    system: str = "",
    held_out: bool = False,
    finished: bool = True,
    imported: bool = False,
) -> Example:
    return make_example(
        origin=origin(OriginKind.RATED, number, imported=imported),
        prompt=asked(question or f"question {number}", system=system),
        completion=f"reply {number}" if reply is None else reply,
        label=label,
        held_out=held_out,
        finished=finished,
        created_at=minute(number),
    )


def pair(
    number: int,
    *,
    question: str | None = None,
    chosen: str | None = None,
    rejected: str | None = None,
    held_out: bool = False,
    imported: bool = False,
) -> PreferencePair:
    return PreferencePair(
        origin=origin(OriginKind.CORRECTED, number, imported=imported),
        prompt=asked(question or f"question {number}"),
        chosen=chosen or f"better reply {number}",
        rejected=rejected or f"worse reply {number}",
        held_out=held_out,
        created_at=minute(number),
    )


def demonstration(
    number: int,
    *,
    question: str | None = None,
    reply: str | None = None,
    held_out: bool = False,
    imported: bool = False,
) -> Demonstration:
    return Demonstration(
        origin=origin(OriginKind.DEMONSTRATED, number, imported=imported),
        prompt=asked(question or f"question {number}"),
        completion=reply or f"right reply {number}",
        held_out=held_out,
        created_at=minute(number),
    )


def thumbs(count: int, *, first: int = 1) -> tuple[Example, ...]:
    """Return `count` ratings, 👍 and 👎 in turn."""
    return tuple(rated(number, number % 2 == 1) for number in range(first, first + count))
