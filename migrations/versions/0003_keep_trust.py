"""Keep trust: updates are stored before Telegram is told of it, and there is an audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "updates",
        sa.Column("id", ID, autoincrement=False, nullable=False),
        sa.Column("person_id", sa.BigInteger(), nullable=True),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("handled_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_updates")),
    )
    op.create_index(op.f("ix_updates_person_id"), "updates", ["person_id"])
    op.create_index(op.f("ix_updates_handled_at"), "updates", ["handled_at"])
    op.create_table(
        "audit",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("person_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    # Not in a batch: SQLite would make the table anew, and its ids would be given again.
    op.add_column("turns", sa.Column("update_id", sa.BigInteger(), nullable=True))
    op.create_index("uq_turns_update_id", "turns", ["update_id"], unique=True)
    op.create_index("ix_turns_usage", "turns", ["person_id", "created_at"])


def downgrade() -> None:
    op.drop_index("ix_turns_usage", table_name="turns")
    op.drop_index("uq_turns_update_id", table_name="turns")
    op.drop_column("turns", "update_id")
    op.drop_table("audit")
    op.drop_index(op.f("ix_updates_handled_at"), table_name="updates")
    op.drop_index(op.f("ix_updates_person_id"), table_name="updates")
    op.drop_table("updates")
