"""The commands `ratchet backup` and `ratchet restore`."""

from pathlib import Path

import click

from bot.app import open_database, open_store
from bot.cli.console import example, opened_store
from store.audit import COMMAND_LINE
from store.backup import Manifest, back_up
from store.backup import restore as restore_backup
from store.settings import load_settings


@click.command(epilog=example("ratchet backup /mnt/backups/2026-11-22"))
@click.argument("folder", type=click.Path(path_type=Path))
def backup(folder: Path) -> None:
    """Write a backup of everything into a new folder; the bot may run meanwhile."""
    with opened_store() as store:
        settings = store.settings
        made = back_up(store.database, settings.storage.adapters_path, folder, settings.public)
    click.echo(_summary(made, f"is in {folder}"))


@click.command(epilog=example("ratchet restore /mnt/backups/2026-11-22"))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def restore(folder: Path) -> None:
    """Restore a backup into an empty data folder or database; stop the bot first."""
    settings = load_settings()
    with open_database(settings.storage) as database:
        made = restore_backup(folder, database, settings.storage.adapters_path)
    with open_store(settings) as store:
        store.audit.note(f"restore {folder}", name=COMMAND_LINE)
    click.echo(_summary(made, "is restored, and its hashes are right"))


def _summary(made: Manifest, what: str) -> str:
    rows = made.rows
    return (
        f"The backup of {made.created_at} {what}: {rows['turns']} turns, {rows['feedback']} "
        f"ratings, {rows['documents']} documents, {len(made.adapters)} adapters."
    )
