"""Sources: every part of a prompt, and every example of a run, refers to what it came from.

The parts of old prompts are found by their text, as erasing did before; what cannot be found has
no source. Vectors of earlier answers are kept in SQL from now on.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.engine import Connection

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ROWS_AT_ONCE = 500
ERASED = "[erased]"
LIVE = sa.text("replaced_at IS NULL")
UNFINISHED = sa.text("state <> 'final'")

TURNS = sa.table(
    "turns",
    *map(sa.column, ("id", "conversation_id", "regenerates_id", "question", "completion")),
    *(sa.column(name, sa.JSON()) for name in ("messages", "passages", "memories")),
)
RUNS = sa.table(
    "training_runs",
    sa.column("id"),
    sa.column("created_at", sa.DateTime(timezone=True)),
    sa.column("erased_at", sa.DateTime(timezone=True)),
    *(sa.column(name, sa.JSON()) for name in ("metrics", "snapshot")),
)
ADAPTERS = sa.table(
    "adapters",
    sa.column("id"),
    sa.column("metrics", sa.JSON()),
    sa.column("erased_at", sa.DateTime(timezone=True)),
)
CORRECTIONS = sa.table(
    "corrections",
    *map(sa.column, ("id", "turn_id", "text")),
    sa.column("created_at", sa.DateTime(timezone=True)),
)
PARTS = sa.table(
    "turn_parts",
    *map(sa.column, ("turn_id", "ordinal", "kind", "message", "starts_at", "ends_at")),
    *map(sa.column, ("source_turn_id", "correction_id", "chunk_id", "label", "score", "erased")),
)
RUN_EXAMPLES = sa.table(
    "run_examples",
    *map(sa.column, ("run_id", "ordinal", "split", "kind")),
    *map(sa.column, ("turn_id", "other_turn_id", "correction_id", "imported_id")),
)
RUN_SAMPLES = sa.table(
    "run_samples", *map(sa.column, ("id", "run_id", "turn_id", "question", "before", "after"))
)
APPROVALS = sa.table(
    "approvals",
    *map(sa.column, ("turn_id", "correction_id", "approved", "question", "answer", "sha256")),
    sa.column("person_id"),
    sa.column("created_at", sa.DateTime(timezone=True)),
)

Row = dict[str, Any]


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":  # the id of a deleted correction goes to no other
        options = {"sqlite_autoincrement": True}
        with op.batch_alter_table("corrections", recreate="always", table_kwargs=options):
            pass
    _create_tables()
    op.add_column("adapters", sa.Column("erased_at", sa.DateTime(timezone=True)))
    op.add_column("training_runs", sa.Column("erased_at", sa.DateTime(timezone=True)))
    op.add_column("feedback", sa.Column("adapter", sa.Text()))
    op.add_column("people", sa.Column("asked_at", sa.DateTime(timezone=True)))
    op.add_column("people", sa.Column("exported_at", sa.DateTime(timezone=True)))
    op.drop_index("ix_feedback_person_id", "feedback")
    op.drop_index("ix_turns_adapter", "turns")
    op.drop_index("ix_turns_conversation_id", "turns")
    op.create_index("ix_corrections_created_at", "corrections", ["created_at"])
    op.create_index("ix_feedback_created_at", "feedback", ["created_at"])
    op.create_index("ix_feedback_given", "feedback", ["person_id", "created_at"])
    op.create_index(
        "ix_feedback_versions",
        "feedback",
        ["adapter", "rating"],
        sqlite_where=LIVE,
        postgresql_where=LIVE,
    )
    op.create_index("ix_turns_created_at", "turns", ["created_at"])
    op.create_index(
        "ix_turns_unfinished",
        "turns",
        ["state"],
        sqlite_where=UNFINISHED,
        postgresql_where=UNFINISHED,
    )
    op.create_index("ix_turns_history", "turns", ["conversation_id", "id"])
    connection = op.get_bind()
    connection.execute(
        sa.text(
            "UPDATE feedback SET adapter ="
            " (SELECT adapter FROM turns WHERE turns.id = feedback.turn_id)"
        )
    )
    _remember(connection)
    _find_parts(connection)
    _copy_approvals(connection)
    _part_runs(connection)
    op.drop_column("training_runs", "snapshot")
    op.drop_column("turns", "passages")
    op.drop_column("turns", "memories")


def _create_tables() -> None:
    op.create_table(
        "spent",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("person_id", sa.BigInteger(), nullable=False),
        sa.Column("turns", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("ratings", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spent")),
    )
    op.create_table(
        "erasures",
        sa.Column("person_id", ID, nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["person_id"],
            ["people.id"],
            name=op.f("fk_erasures_person_id_people"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("person_id", name=op.f("pk_erasures")),
    )
    op.create_table(
        "sample_messages",
        sa.Column("chat_id", sa.BigInteger(), nullable=False),
        sa.Column("message_id", sa.BigInteger(), nullable=False),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("unwanted", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["training_runs.id"],
            name=op.f("fk_sample_messages_run_id_training_runs"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("chat_id", "message_id", name=op.f("pk_sample_messages")),
    )
    op.create_table(
        "memories",
        sa.Column("turn_id", ID, nullable=False),
        sa.Column("chat_id", sa.BigInteger(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=True),
        sa.Column("embedder", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["turn_id"], ["turns.id"], name=op.f("fk_memories_turn_id_turns"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("turn_id", name=op.f("pk_memories")),
    )
    op.create_table(
        "run_samples",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("turn_id", ID, nullable=True),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("after", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["training_runs.id"],
            name=op.f("fk_run_samples_run_id_training_runs"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["turn_id"], ["turns.id"], name=op.f("fk_run_samples_turn_id_turns"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_samples")),
    )
    op.create_table(
        "run_examples",
        sa.Column("run_id", ID, nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("turn_id", ID, nullable=True),
        sa.Column("other_turn_id", ID, nullable=True),
        sa.Column("correction_id", ID, nullable=True),
        sa.Column("imported_id", ID, nullable=True),
        sa.ForeignKeyConstraint(
            ["correction_id"],
            ["corrections.id"],
            name=op.f("fk_run_examples_correction_id_corrections"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["imported_id"],
            ["imported_examples.id"],
            name=op.f("fk_run_examples_imported_id_imported_examples"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["other_turn_id"],
            ["turns.id"],
            name=op.f("fk_run_examples_other_turn_id_turns"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["training_runs.id"],
            name=op.f("fk_run_examples_run_id_training_runs"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["turn_id"],
            ["turns.id"],
            name=op.f("fk_run_examples_turn_id_turns"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("run_id", "ordinal", name=op.f("pk_run_examples")),
    )
    op.create_table(
        "turn_parts",
        sa.Column("turn_id", ID, nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("message", sa.Integer(), nullable=False),
        sa.Column("starts_at", sa.Integer(), nullable=True),
        sa.Column("ends_at", sa.Integer(), nullable=True),
        sa.Column("source_turn_id", ID, nullable=True),
        sa.Column("correction_id", ID, nullable=True),
        sa.Column("chunk_id", ID, nullable=True),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("erased", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["chunk_id"],
            ["chunks.id"],
            name=op.f("fk_turn_parts_chunk_id_chunks"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["correction_id"],
            ["corrections.id"],
            name=op.f("fk_turn_parts_correction_id_corrections"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["source_turn_id"],
            ["turns.id"],
            name=op.f("fk_turn_parts_source_turn_id_turns"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["turn_id"], ["turns.id"], name=op.f("fk_turn_parts_turn_id_turns"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("turn_id", "ordinal", name=op.f("pk_turn_parts")),
    )
    op.create_index("ix_spent_created_at", "spent", ["created_at"])
    op.create_index("ix_spent_person", "spent", ["person_id", "created_at"])
    op.create_index("ix_sample_messages_run_id", "sample_messages", ["run_id"])
    op.create_index("ix_memories_embedder", "memories", ["embedder"])
    op.create_index("ix_memories_place", "memories", ["chat_id", "embedder", "turn_id"])
    op.create_index("ix_run_samples_run_id", "run_samples", ["run_id"])
    op.create_index("ix_run_samples_turn_id", "run_samples", ["turn_id"])
    op.create_index("ix_run_examples_correction_id", "run_examples", ["correction_id"])
    op.create_index("ix_run_examples_imported_id", "run_examples", ["imported_id"])
    op.create_index("ix_run_examples_other_turn_id", "run_examples", ["other_turn_id"])
    op.create_index("ix_run_examples_turn_id", "run_examples", ["turn_id"])
    op.create_index("ix_turn_parts_chunk_id", "turn_parts", ["chunk_id"])
    op.create_index("ix_turn_parts_correction_id", "turn_parts", ["correction_id"])
    op.create_index("ix_turn_parts_source_turn_id", "turn_parts", ["source_turn_id"])


def _remember(connection: Connection) -> None:
    """Note the turns that people liked or corrected; their questions are embedded later."""
    connection.execute(
        sa.text(
            "INSERT INTO memories (turn_id, chat_id)"
            " SELECT turns.id, conversations.chat_id FROM turns"
            " JOIN conversations ON conversations.id = turns.conversation_id"
            " WHERE turns.id IN"
            " (SELECT turn_id FROM feedback WHERE replaced_at IS NULL AND rating > 0)"
            " OR turns.id IN (SELECT turn_id FROM corrections WHERE text <> '')"
        )
    )


def _find_parts(connection: Connection) -> None:
    corrections: dict[int, list[tuple[int, str]]] = {}
    for id, turn_id, text in connection.execute(
        sa.select(CORRECTIONS.c.id, CORRECTIONS.c.turn_id, CORRECTIONS.c.text)
    ):
        corrections.setdefault(turn_id, []).append((id, text))
    chunks = set(connection.scalars(sa.text("SELECT id FROM chunks")))
    turn_ids = set(connection.scalars(sa.text("SELECT id FROM turns")))
    conversations = connection.scalars(sa.text("SELECT id FROM conversations ORDER BY id")).all()
    waiting: list[Row] = []
    for conversation_id in conversations:
        said: dict[tuple[str, str], int] = {}
        for turn in _turns_of(connection, conversation_id):
            waiting += _parts_of(turn, said, corrections, chunks, turn_ids)
            said[turn["question"], turn["completion"]] = turn["id"]
        if len(waiting) >= ROWS_AT_ONCE:
            connection.execute(sa.insert(PARTS), waiting)
            waiting = []
    if waiting:
        connection.execute(sa.insert(PARTS), waiting)


def _turns_of(connection: Connection, conversation_id: int) -> Iterator[Row]:
    last = 0
    while True:
        rows = connection.execute(
            sa.select(TURNS)
            .where(TURNS.c.conversation_id == conversation_id, TURNS.c.id > last)
            .order_by(TURNS.c.id)
            .limit(ROWS_AT_ONCE)
        ).mappings()
        found = [dict(row) for row in rows]
        yield from found
        if len(found) < ROWS_AT_ONCE:
            return
        last = found[-1]["id"]


def _parts_of(
    turn: Row,
    said: Mapping[tuple[str, str], int],
    corrections: Mapping[int, Sequence[tuple[int, str]]],
    chunks: set[int],
    turn_ids: set[int],
) -> list[Row]:
    """The parts of an old prompt, as far as their text tells."""
    messages, parts = turn["messages"], list[Row]()

    def add(kind: str, message: int, **source: Any) -> None:
        empty = dict.fromkeys(
            ("starts_at", "ends_at", "source_turn_id", "correction_id", "chunk_id", "score")
        )
        parts.append(
            {
                "turn_id": turn["id"],
                "ordinal": len(parts),
                "kind": kind,
                "message": message,
                "label": "",
                "erased": False,
                **empty,
                **source,
            }
        )

    if not messages:
        return parts
    first = 0
    if messages[0]["role"] == "system":
        first, text = 1, messages[0]["content"]
        examples = [
            (memory, found)
            for memory in turn["memories"]
            if (found := _span(text, f"Question: {memory['question']}\nAnswer: {memory['answer']}"))
        ]
        end = min((found[0] for _, found in examples), default=len(text))
        add("system", 0, starts_at=0, ends_at=end)
        for memory, (start, stop) in sorted(examples, key=lambda each: each[1]):
            source = memory["turn_id"] if memory["turn_id"] in turn_ids else None
            given = corrections.get(memory["turn_id"], ())
            add(
                "example",
                0,
                starts_at=start,
                ends_at=stop,
                source_turn_id=source,
                correction_id=next((id for id, text in given if text == memory["answer"]), None),
                score=memory["score"],
                erased=source is None,
            )
    for index in range(first, len(messages) - 1, 2):
        asked, replied = messages[index]["content"], messages[index + 1]["content"]
        erased = asked == ERASED == replied
        add("exchange", index, source_turn_id=said.get((asked, replied)), erased=erased)
    last = len(messages) - 1
    text = messages[last]["content"]
    for passage in turn["passages"]:
        label = " › ".join(filter(None, (passage["title"], passage["section"])))
        if found := _span(text, f"{label}: {passage['text']}"):
            chunk_id = passage["chunk_id"] if passage["chunk_id"] in chunks else None
            add(
                "passage",
                last,
                starts_at=found[0],
                ends_at=found[1],
                chunk_id=chunk_id,
                label=label,
                score=passage["score"],
            )
    start = len(text) - len(turn["question"]) if text.endswith(turn["question"]) else 0
    add("question", last, starts_at=start, ends_at=len(text))
    return parts


def _span(text: str, words: str) -> tuple[int, int] | None:
    start = text.rfind(words)
    return (start, start + len(words)) if start >= 0 else None


def _copy_approvals(connection: Connection) -> None:
    """Approve the words that stood when an admin approved them, masked, and no later ones."""
    old = connection.execute(
        sa.text("SELECT turn_id, person_id FROM approvals ORDER BY turn_id")
    ).all()
    moments: dict[int, Any] = dict(
        connection.execute(
            sa.select(
                sa.column("turn_id"), sa.column("created_at", sa.DateTime(timezone=True))
            ).select_from(sa.table("approvals"))
        ).all()
    )
    op.drop_table("approvals")
    op.create_table(
        "approvals",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("turn_id", ID, nullable=False),
        sa.Column("correction_id", ID, nullable=True),
        sa.Column("approved", sa.Boolean(), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("person_id", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["turn_id"],
            ["turns.id"],
            name=op.f("fk_approvals_turn_id_turns"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["correction_id"],
            ["corrections.id"],
            name=op.f("fk_approvals_correction_id_corrections"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approvals")),
        sa.UniqueConstraint("turn_id", "sha256", name=op.f("uq_approvals_turn_id")),
    )
    op.create_index("ix_approvals_correction_id", "approvals", ["correction_id"])
    for turn_id, person_id in old:
        approved_at = moments[turn_id]
        turn = connection.execute(
            sa.select(TURNS.c.question, TURNS.c.completion).where(TURNS.c.id == turn_id)
        ).one()
        given = connection.execute(
            sa.select(CORRECTIONS.c.id, CORRECTIONS.c.text)
            .where(
                CORRECTIONS.c.turn_id == turn_id,
                CORRECTIONS.c.text != "",
                CORRECTIONS.c.created_at <= approved_at,
            )
            .order_by(CORRECTIONS.c.id.desc())
        ).first()
        question, answer = _masked(turn[0]), _masked(given[1] if given else turn[1])
        connection.execute(
            sa.insert(APPROVALS).values(
                turn_id=turn_id,
                correction_id=given[0] if given else None,
                approved=True,
                question=question,
                answer=answer,
                sha256=hashlib.sha256(f"{len(question)}:{question}{answer}".encode()).hexdigest(),
                person_id=person_id,
                created_at=approved_at,
            )
        )


def _masked(text: str) -> str:
    from store.masking import mask

    return mask(text)


def _part_runs(connection: Connection) -> None:
    """Turn ids of examples into rows, and samples into rows that go with their turns."""
    turn_ids = set(connection.scalars(sa.text("SELECT id FROM turns")))
    correction_ids = set(connection.scalars(sa.text("SELECT id FROM corrections")))
    imported_ids = set(connection.scalars(sa.text("SELECT id FROM imported_examples")))
    for run in connection.execute(sa.select(RUNS).order_by(RUNS.c.id)).mappings().all():
        held_out: list[int] = []
        rows: list[Row] = []
        for split in ("train", "held_out"):
            for text in run["snapshot"].get(split, ()):
                origin = _origin(text)
                if origin is None:
                    continue
                kind, turn, other, correction, imported = origin
                if correction is not None:
                    turn = connection.scalar(
                        sa.select(CORRECTIONS.c.turn_id).where(CORRECTIONS.c.id == correction)
                    )
                row = {
                    "run_id": run["id"],
                    "ordinal": len(rows),
                    "split": split,
                    "kind": kind,
                    "turn_id": turn if turn in turn_ids else None,
                    "other_turn_id": other if other in turn_ids else None,
                    "correction_id": correction if correction in correction_ids else None,
                    "imported_id": imported if imported in imported_ids else None,
                }
                rows.append(row)
                if split == "held_out" and row["turn_id"] is not None:
                    held_out.append(row["turn_id"])
        if rows:
            connection.execute(sa.insert(RUN_EXAMPLES), rows)
        metrics = dict(run["metrics"])
        _keep_samples(connection, run["id"], metrics.pop("samples", []), held_out)
        erased = run["created_at"] if metrics.pop("holds_erased", False) else None
        connection.execute(
            sa.update(RUNS).where(RUNS.c.id == run["id"]).values(metrics=metrics, erased_at=erased)
        )
    for adapter in connection.execute(sa.select(ADAPTERS)).mappings().all():
        metrics = dict(adapter["metrics"])
        if metrics.pop("holds_erased", False):
            connection.execute(
                sa.update(ADAPTERS)
                .where(ADAPTERS.c.id == adapter["id"])
                .values(metrics=metrics, erased_at=sa.func.now())
            )


def _origin(text: str) -> tuple[str, int | None, int | None, int | None, int | None] | None:
    """Kind, turn, other turn, correction and import of an id such as `t12` or `p3-4`."""
    kind, number = text[:1], text[1:]
    if kind == "p":
        better, _, worse = number.partition("-")
        return "regenerated", int(better), int(worse), None, None
    if not number.isdigit():
        return None
    id = int(number)
    match kind:
        case "t":
            return "rated", id, None, None, None
        case "c":
            return "corrected", None, None, id, None
        case "d":
            return "demonstrated", None, None, id, None
        case "i":
            return "imported", None, None, None, id
    return None


def _restore_marks(connection: Connection) -> None:
    """Mark runs and adapters that learned from erased data as the older schema did."""
    for table in (RUNS, ADAPTERS):
        marked = sa.select(table.c.id, table.c.metrics).where(table.c.erased_at.is_not(None))
        for id, metrics in connection.execute(marked).all():
            connection.execute(
                sa.update(table)
                .where(table.c.id == id)
                .values(metrics={**metrics, "holds_erased": True})
            )


def _keep_samples(
    connection: Connection, run_id: int, samples: Sequence[Mapping[str, str]], held_out: list[int]
) -> None:
    """Keep the samples whose turn is found by its question; the others are dropped."""
    for sample in samples:
        for turn_id in held_out:
            question = connection.scalar(sa.select(TURNS.c.question).where(TURNS.c.id == turn_id))
            if question and (question in sample["question"]):
                connection.execute(
                    sa.insert(RUN_SAMPLES).values(run_id=run_id, turn_id=turn_id, **sample)
                )
                break


def downgrade() -> None:
    op.add_column(
        "turns", sa.Column("passages", sa.JSON(), server_default=sa.text("'[]'"), nullable=False)
    )
    op.add_column(
        "turns", sa.Column("memories", sa.JSON(), server_default=sa.text("'[]'"), nullable=False)
    )
    op.add_column(
        "training_runs",
        sa.Column("snapshot", sa.JSON(), server_default=sa.text("'{}'"), nullable=False),
    )
    connection = op.get_bind()
    _restore_passages(connection)
    _restore_snapshots(connection)
    _restore_marks(connection)
    with op.batch_alter_table("turns") as batch:
        batch.alter_column("passages", server_default=None)
    approved = connection.execute(
        sa.text(
            "SELECT turn_id, max(person_id), max(created_at) FROM approvals"
            " WHERE approved GROUP BY turn_id"
        )
    ).all()
    op.drop_table("approvals")
    op.create_table(
        "approvals",
        sa.Column("turn_id", ID, nullable=False),
        sa.Column("person_id", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["turn_id"],
            ["turns.id"],
            name=op.f("fk_approvals_turn_id_turns"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("turn_id", name=op.f("pk_approvals")),
    )
    for turn_id, person_id, created_at in approved:
        connection.execute(
            sa.text("INSERT INTO approvals VALUES (:turn, :person, :moment)"),
            {"turn": turn_id, "person": person_id, "moment": created_at},
        )
    for name, table in (
        ("ix_turns_history", "turns"),
        ("ix_turns_unfinished", "turns"),
        ("ix_turns_created_at", "turns"),
        ("ix_feedback_versions", "feedback"),
        ("ix_feedback_given", "feedback"),
        ("ix_feedback_created_at", "feedback"),
        ("ix_corrections_created_at", "corrections"),
    ):
        op.drop_index(name, table)
    op.create_index("ix_turns_conversation_id", "turns", ["conversation_id"])
    op.create_index("ix_turns_adapter", "turns", ["adapter"])
    op.create_index("ix_feedback_person_id", "feedback", ["person_id"])
    for table, column in (
        ("training_runs", "erased_at"),
        ("adapters", "erased_at"),
        ("people", "asked_at"),
        ("people", "exported_at"),
        ("feedback", "adapter"),
    ):
        op.drop_column(table, column)
    for table in (
        "turn_parts",
        "run_examples",
        "run_samples",
        "sample_messages",
        "memories",
        "erasures",
        "spent",
    ):
        op.drop_table(table)


def _restore_passages(connection: Connection) -> None:
    """Write passages and examples back as lists, without what was erased."""
    served = sa.select(PARTS).where(
        PARTS.c.kind.in_(("passage", "example")), PARTS.c.erased.is_(sa.false())
    )
    by_turn: dict[int, list[Any]] = {}
    for part in connection.execute(served.order_by(PARTS.c.turn_id, PARTS.c.ordinal)).mappings():
        by_turn.setdefault(part["turn_id"], []).append(part)
    for turn_id, parts in by_turn.items():
        messages = connection.execute(
            sa.select(TURNS.c.messages).where(TURNS.c.id == turn_id)
        ).scalar_one()
        lists: dict[str, list[Row]] = {"passages": [], "memories": []}
        for part in parts:
            if part["kind"] == "passage":
                lists["passages"].append(_old_passage(connection, part, messages))
            elif part["starts_at"] is None and part["source_turn_id"] is not None:
                lists["memories"].append(
                    {
                        "turn_id": part["source_turn_id"],
                        "question": messages[part["message"]]["content"],
                        "answer": messages[part["message"] + 1]["content"],
                        "score": part["score"],
                    }
                )
        connection.execute(sa.update(TURNS).where(TURNS.c.id == turn_id).values(**lists))


def _old_passage(connection: Connection, part: Any, messages: Any) -> Row:
    title, _, section = part["label"].partition(" › ")
    text = messages[part["message"]]["content"][part["starts_at"] : part["ends_at"]]
    document = sa.text("SELECT document_id FROM chunks WHERE id = :id")
    return {
        "chunk_id": part["chunk_id"] or 0,
        "document_id": connection.scalar(document, {"id": part["chunk_id"]}) or 0,
        "title": title,
        "section": section,
        "text": text.removeprefix(f"{part['label']}: "),
        "score": part["score"],
    }


def _restore_snapshots(connection: Connection) -> None:
    letters = {"rated": "t", "corrected": "c", "demonstrated": "d", "imported": "i"}
    snapshots: dict[int, dict[str, list[str]]] = {}
    for row in connection.execute(
        sa.select(RUN_EXAMPLES).order_by(RUN_EXAMPLES.c.run_id, RUN_EXAMPLES.c.ordinal)
    ).mappings():
        id = row["correction_id"] or row["imported_id"] or row["turn_id"]
        if id is None:
            continue
        text = f"{letters.get(row['kind'])}{id}"
        if row["kind"] == "regenerated":
            text = f"p{row['turn_id']}-{row['other_turn_id']}"
        snapshots.setdefault(row["run_id"], {}).setdefault(row["split"], []).append(text)
    for run_id, snapshot in snapshots.items():
        connection.execute(sa.update(RUNS).where(RUNS.c.id == run_id).values(snapshot=snapshot))
