"""Records with every field filled in; a test gives only the fields that it is about."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from store.domain import (
    Adapter,
    AdapterNotes,
    AdapterStatus,
    Example,
    FinishReason,
    Message,
    Origin,
    OriginKind,
    Place,
    Progress,
    RunMetrics,
    RunStatus,
    TrainingRun,
    Turn,
    TurnState,
)

WHEN = datetime(2026, 1, 1, tzinfo=UTC)

_TURN = Turn(
    id=1,
    conversation_id=1,
    place=Place(chat_id=1),
    person_id=1,
    state=TurnState.FINAL,
    question="When do you open?",
    messages=(Message(role="user", content="When do you open?"),),
    parts=(),
    completion="At nine.",
    adapter=None,
    model="starter",
    sampling={},
    passages=(),
    memories=(),
    prompt_tokens=120,
    completion_tokens=4,
    seconds=1.25,
    finish_reason=FinishReason.STOP,
    regenerates_id=None,
    update_id=None,
    created_at=WHEN,
)

_ADAPTER = Adapter(
    name="a1-1f2e3d4c",
    sha256="1f2e3d4c" * 8,
    base_model="starter",
    path="/adapters/a1-1f2e3d4c",
    run_id=None,
    status=AdapterStatus.CANDIDATE,
    notes=AdapterNotes(),
    erased_at=None,
    created_at=WHEN,
)

_EXAMPLE = Example(
    origin=Origin(kind=OriginKind.RATED, turn_id=1),
    prompt=(Message(role="user", content="When do you open?"),),
    completion="At nine.",
    label=True,
    held_out=False,
    created_at=WHEN,
)

_RUN = TrainingRun(
    id=1,
    status=RunStatus.QUEUED,
    reason="the schedule",
    outcome="",
    requested_by=None,
    examples=None,
    metrics=RunMetrics(),
    progress=Progress(),
    log="",
    cancel_requested=False,
    created_at=WHEN,
    started_at=None,
    finished_at=None,
)


def make_turn(**changes: Any) -> Turn:
    """Return a finished turn."""
    return replace(_TURN, **changes)


def make_adapter(**changes: Any) -> Adapter:
    """Return a candidate of the embedded model."""
    return replace(_ADAPTER, **changes)


def make_example(**changes: Any) -> Example:
    """Return a reply that was rated 👍."""
    return replace(_EXAMPLE, **changes)


def make_run(**changes: Any) -> TrainingRun:
    """Return a run that waits in the queue."""
    return replace(_RUN, **changes)
