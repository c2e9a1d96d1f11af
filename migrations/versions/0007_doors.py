"""Updates that could not be handled say why; audit entries hold hashes; people have @names."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("updates") as batch:
        batch.add_column(sa.Column("failure", sa.Text(), nullable=True))
    with op.batch_alter_table("people") as batch:
        batch.add_column(sa.Column("username", sa.Text(), nullable=True))
    with op.batch_alter_table("audit") as batch:
        batch.alter_column("person_id", existing_type=sa.BigInteger(), nullable=True)
        batch.add_column(sa.Column("hash_before", sa.Text(), nullable=True))
        batch.add_column(sa.Column("hash", sa.Text(), nullable=True))


def downgrade() -> None:
    op.execute("DELETE FROM audit WHERE person_id IS NULL")
    with op.batch_alter_table("audit") as batch:
        batch.drop_column("hash")
        batch.drop_column("hash_before")
        batch.alter_column("person_id", existing_type=sa.BigInteger(), nullable=False)
    with op.batch_alter_table("people") as batch:
        batch.drop_column("username")
    with op.batch_alter_table("updates") as batch:
        batch.drop_column("failure")
