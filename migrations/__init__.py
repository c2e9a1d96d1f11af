"""Alembic migrations, packaged so that `ratchet db upgrade` works from an installed wheel."""
