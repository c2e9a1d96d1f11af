"""The commands that write a backup and put one back."""

from pathlib import Path

import click

from bot.cli.console import example, opened_store
from store.backup import Manifest, back_up
from store.backup import restore as restore_backup
from store.database import Database
from store.settings import load_settings


@click.command(epilog=example("ratchet backup /mnt/backups/2026-11-22"))
@click.argument("folder", type=click.Path(path_type=Path))
def backup(folder: Path) -> None:
    """Write everything that is kept into a new folder, while the bot talks."""
    with opened_store() as store:
        settings = store.settings
        made = back_up(store.database, settings.storage.adapters_path, folder, settings.public)
    click.echo(_in_words(made, f"is in {folder}"))


@click.command(epilog=example("ratchet restore /mnt/backups/2026-11-22"))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def restore(folder: Path) -> None:
    """Put a backup into an empty data folder or database; stop the bot before."""
    settings = load_settings()
    database = Database(settings.storage.database)
    try:
        made = restore_backup(folder, database, settings.storage.adapters_path)
    finally:
        database.close()
    click.echo(_in_words(made, "is back, counted and its hashes checked"))


def _in_words(made: Manifest, what: str) -> str:
    rows = made.rows
    return (
        f"What was kept on {made.created_at} {what}: {rows['turns']} turns, {rows['feedback']} "
        f"ratings, {rows['documents']} documents, {len(made.adapters)} adapters."
    )
