"""Imports with an owner, golden answers, a key for the split, and tombstones of who was erased.

What was imported before stays trusted, as it was.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "imports",
        sa.Column("id", BigId, primary_key=True, autoincrement=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("imported_by", sa.Text(), nullable=False),
        sa.Column("trusted", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sqlite_autoincrement=True,
    )
    op.execute(
        "INSERT INTO imports (source, imported_by, trusted, created_at) "
        "SELECT source, '', TRUE, MIN(created_at) FROM imported_examples GROUP BY source"
    )
    with op.batch_alter_table("imported_examples") as batch:
        batch.add_column(sa.Column("import_id", BigId, nullable=True))
    op.execute(
        "UPDATE imported_examples SET import_id = "
        "(SELECT id FROM imports WHERE imports.source = imported_examples.source)"
    )
    with op.batch_alter_table("imported_examples") as batch:
        batch.alter_column("import_id", existing_type=BigId, nullable=False)
        batch.create_foreign_key(
            "fk_imported_examples_import_id_imports",
            "imports",
            ["import_id"],
            ["id"],
            ondelete="CASCADE",
        )
        batch.create_index("ix_imported_examples_import_id", ["import_id"])
        batch.drop_column("source")
    op.create_table(
        "golden_answers",
        sa.Column("id", BigId, primary_key=True, autoincrement=True),
        sa.Column("turn_id", BigId, nullable=True),
        sa.Column("correction_id", BigId, nullable=True),
        sa.Column("prompt", sa.JSON(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("worse", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["turn_id"], ["turns.id"], "fk_golden_answers_turn_id_turns", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["correction_id"],
            ["corrections.id"],
            "fk_golden_answers_correction_id_corrections",
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("sha256", name="uq_golden_answers_sha256"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_golden_answers_turn_id", "golden_answers", ["turn_id"])
    op.create_index("ix_golden_answers_correction_id", "golden_answers", ["correction_id"])
    op.create_table(
        "split_key",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("first_turn_id", sa.BigInteger(), nullable=False),
        sa.Column("first_imported_id", sa.BigInteger(), nullable=False),
    )

    op.create_table(
        "tombstones",
        sa.Column("digest", sa.Text(), primary_key=True),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("tombstones")
    op.drop_table("split_key")
    op.drop_table("golden_answers")
    with op.batch_alter_table("imported_examples") as batch:
        batch.add_column(sa.Column("source", sa.Text(), nullable=True))
    op.execute(
        "UPDATE imported_examples SET source = "
        "(SELECT source FROM imports WHERE imports.id = imported_examples.import_id)"
    )
    with op.batch_alter_table("imported_examples") as batch:
        batch.alter_column("source", existing_type=sa.Text(), nullable=False)
        batch.drop_index("ix_imported_examples_import_id")
        batch.drop_constraint("fk_imported_examples_import_id_imports", type_="foreignkey")
        batch.drop_column("import_id")
    op.drop_table("imports")
