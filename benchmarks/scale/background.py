"""Made-up rows beside the turns: people, documents, runs and versions."""

from datetime import timedelta

from benchmarks.scale.drawing import (
    CHUNKS,
    DOCUMENTS,
    MODEL,
    RUNS,
    SILENT_GROUPS,
    YEAR,
    Drawing,
    Row,
    Rows,
    document_of,
    version,
)
from store.domain import Access, AdapterStatus, OriginKind, RunStatus, Split
from store.tables import (
    AdapterRow,
    ChunkRow,
    DocumentRow,
    GroupRulesRow,
    PersonRow,
    QuarantineRow,
    RunExampleRow,
    RunRow,
    RunSampleRow,
    UpdateRow,
)

EXAMPLES = 400
"""Examples that a run trains on."""

HELD_OUT = 80
SHOWN = range(EXAMPLES, EXAMPLES + 3)
"""Held-out examples whose replies are shown as samples."""


def background(drawing: Drawing) -> Rows:
    """Draw everything that turns refer to."""
    silent = [_silent(drawing, id) for id in SILENT_GROUPS]
    newest = range(drawing.turns * 99 // 100, drawing.turns + 1)
    return {
        PersonRow: [_person(drawing, id) for id in drawing.people],
        QuarantineRow: [_suspect(drawing, id) for id in drawing.people[::250]],
        GroupRulesRow: silent,
        DocumentRow: [_document(drawing, id) for id in range(1, DOCUMENTS + 1)],
        ChunkRow: [_chunk(drawing, id) for id in range(1, DOCUMENTS * CHUNKS + 1)],
        RunRow: [_run(drawing, id) for id in range(1, RUNS + 1)],
        AdapterRow: [_adapter(drawing, id) for id in range(1, RUNS + 1)],
        UpdateRow: [_update(drawing, id) for id in newest],
    }


def run_contents(drawing: Drawing) -> Rows:
    """Draw the examples and the samples of all runs, which refer to turns."""
    examples = [row for id in range(1, RUNS + 1) for row in _examples(drawing, id)]
    shown = [row for row in examples if row["ordinal"] in SHOWN]
    return {
        RunExampleRow: examples,
        RunSampleRow: [_sample(drawing, row["run_id"], row["turn_id"]) for row in shown],
    }


def _silent(drawing: Drawing, id: int) -> Row:
    return {"chat_id": id, "answers": True, "teaches": False, "decided_at": drawing.time_of(0)}


def _person(drawing: Drawing, id: int) -> Row:
    opted_out = id % 50 == 3
    return {
        "id": id,
        "name": f"Person {id}",
        "access": (Access.UNDECIDED, Access.INVITED, Access.ALLOWED)[id % 3]
        if id % 500
        else Access.DENIED,
        "opted_out": opted_out,
        "consented_to": 1 if id % 2 and not opted_out else None,
        "decided_at": drawing.time_of(0),
        "first_seen": drawing.now - (timedelta(days=2) if id % 50 == 7 else YEAR),
    }


def _update(drawing: Drawing, id: int) -> Row:
    moment = drawing.time_of(id)
    return {
        "id": id,
        "person_id": None,
        "body": {},
        "received_at": moment,
        "holder": "filled",
        "held_until": moment,
        "attempts": 1,
        "handled_at": moment,
    }


def _suspect(drawing: Drawing, id: int) -> Row:
    return {
        "person_id": id,
        "reason": "30 of 40 ratings are the opposite of what others' say",
        "held_at": drawing.time_of(0),
        "released_at": None,
    }


def _document(drawing: Drawing, id: int) -> Row:
    return {
        "id": id,
        "name": f"document{id}.md",
        "title": f"Document {id}",
        "media_type": "text/markdown",
        "sha256": f"{id:064}",
        "size_bytes": 240 * CHUNKS,
        "chunk_chars": 240,
        "indexed_in": "filled",
        "added_by": 1,
        "created_at": drawing.time_of(0),
    }


def _chunk(drawing: Drawing, id: int) -> Row:
    return {
        "id": id,
        "document_id": document_of(id),
        "ordinal": (id - 1) % CHUNKS,
        "section": "",
        "text": drawing.chunk_text(id),
    }


def _run(drawing: Drawing, id: int) -> Row:
    moment = drawing.time_of(id * drawing.turns // RUNS)
    return {
        "id": id,
        "status": RunStatus.PROMOTED,
        "requested_by": None,
        "reason": "the schedule",
        "outcome": f"{version(id)} passed the gate and is live.",
        "examples": {"train": EXAMPLES, "held_out": HELD_OUT},
        "metrics": {"curve": [(step, 0.6) for step in range(200)]},
        "progress": {},
        "log": drawing.log(),
        "cancel_requested": False,
        "announced": True,
        "created_at": moment,
        "started_at": moment,
        "heartbeat_at": moment,
        "finished_at": moment + timedelta(minutes=10),
    }


def _examples(drawing: Drawing, run_id: int) -> list[Row]:
    """Draw the examples of a run: the newest rated turns before it."""
    newest = max(run_id * drawing.turns // RUNS, 1)
    turns = range(newest - newest % 3, 0, -3)[: EXAMPLES + HELD_OUT]
    return [
        {
            "run_id": run_id,
            "ordinal": ordinal,
            "split": Split.TRAIN if ordinal < EXAMPLES else Split.HELD_OUT,
            "kind": OriginKind.RATED,
            "turn_id": turn_id,
        }
        for ordinal, turn_id in enumerate(turns)
    ]


def _sample(drawing: Drawing, run_id: int, turn_id: int) -> Row:
    texts = {name: drawing.text(40, 160) for name in ("question", "before", "after")}
    return {"run_id": run_id, "turn_id": turn_id, **texts}


def _adapter(drawing: Drawing, id: int) -> Row:
    return {
        "id": id,
        "name": version(id),
        "sha256": f"{id:064}",
        "base_model": MODEL,
        "run_id": id,
        "status": AdapterStatus.ACTIVE if id == RUNS else AdapterStatus.RETIRED,
        "metrics": {"examples": {"train": EXAMPLES, "held_out": HELD_OUT}},
        "created_at": drawing.time_of(id * drawing.turns // RUNS),
    }
