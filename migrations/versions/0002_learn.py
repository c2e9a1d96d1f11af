"""Learn: runs with progress and outcome, imported examples, approvals, the way back."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "imported_examples",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("prompt", sa.JSON(), nullable=False),
        sa.Column("completion", sa.Text(), nullable=False),
        sa.Column("rejected", sa.Text(), nullable=True),
        sa.Column("label", sa.Boolean(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imported_examples")),
        sa.UniqueConstraint("digest", name=op.f("uq_imported_examples_digest")),
    )
    op.create_table(
        "activations",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("adapter_id", ID, nullable=True),
        sa.Column("person_id", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("undone", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["adapter_id"],
            ["adapters.id"],
            name=op.f("fk_activations_adapter_id_adapters"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_activations")),
    )
    op.create_index(op.f("ix_activations_adapter_id"), "activations", ["adapter_id"])
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
    for column in (
        sa.Column("outcome", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("snapshot", sa.JSON(), server_default="{}", nullable=False),
        sa.Column("progress", sa.JSON(), server_default="{}", nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("announced", sa.Boolean(), server_default=sa.false(), nullable=False),
    ):
        op.add_column("training_runs", column)
    op.add_column("turns", sa.Column("memories", sa.JSON(), server_default="[]", nullable=False))


def downgrade() -> None:
    op.drop_column("turns", "memories")
    for name in ("announced", "cancel_requested", "progress", "snapshot", "outcome"):
        op.drop_column("training_runs", name)
    op.drop_table("approvals")
    op.drop_index(op.f("ix_activations_adapter_id"), table_name="activations")
    op.drop_table("activations")
    op.drop_table("imported_examples")
