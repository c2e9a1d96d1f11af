"""The commands `ratchet backup` and `ratchet restore`."""

import shutil
import time
from pathlib import Path

import click

from bot.app import Store, open_database, open_store
from bot.cli.console import example, opened_store
from store.audit import COMMAND_LINE
from store.backup import Manifest, back_up, newest_beside
from store.backup import restore as restore_backup
from store.backup_key import EncryptionKey, SigningKey
from store.settings import load_settings

SECONDS_PER_HOUR = 3600

NAME_OF_TIME = "%Y-%m-%dT%H%M%SZ"
"""The names of backups that are made again and again: they sort by their time, in UTC."""


@click.command(epilog=example("ratchet backup /mnt/backups/2026-11-22"))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--encryption-key",
    "encryption_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Encrypt with the age identity in this file; it is made if it is not there.",
)
@click.option(
    "--every",
    "hours",
    metavar="HOURS",
    type=click.FloatRange(min=0, min_open=True),
    help="Make one again and again, each in a folder of its own inside FOLDER, until stopped.",
)
@click.option(
    "--keep",
    metavar="N",
    type=click.IntRange(1),
    default=7,
    show_default=True,
    help="With --every: keep the newest so many.",
)
def backup(folder: Path, encryption_file: Path | None, hours: float | None, keep: int) -> None:
    """Write a backup of everything into a new folder; the bot may run meanwhile."""
    encryption = None
    if encryption_file is not None and not encryption_file.exists():
        encryption = EncryptionKey.make(encryption_file)
        click.echo(f"{encryption_file} is a new key. Keep a copy elsewhere: without it no backup")
        click.echo("that it encrypts can be read.")
    elif encryption_file is not None:
        encryption = EncryptionKey.read(encryption_file)
    with opened_store() as store:
        if hours is None:
            _back_up(store, folder, encryption)
        while hours is not None:
            _back_up(store, folder / f"{store.database.now():{NAME_OF_TIME}}", encryption)
            for old in _made_again_and_again(folder)[:-keep]:
                shutil.rmtree(old)
                click.echo(f"{old} is removed.")
            time.sleep(hours * SECONDS_PER_HOUR)


def _back_up(store: Store, folder: Path, encryption: EncryptionKey | None) -> None:
    storage = store.settings.storage
    made = back_up(
        store.database,
        storage.adapters_path,
        folder,
        store.settings.public,
        key=SigningKey.read_or_make(storage.backup_key_path),
        encryption=encryption,
    )
    click.echo(_summary(made, f"is in {folder}"))


def _made_again_and_again(folder: Path) -> list[Path]:
    """Return the backups whose names are times, oldest first."""
    return sorted(each for each in folder.iterdir() if each.is_dir() and _is_a_time(each.name))


def _is_a_time(name: str) -> bool:
    try:
        time.strptime(name, NAME_OF_TIME)
    except ValueError:
        return False
    return True


@click.command(epilog=example("ratchet restore /mnt/backups/2026-11-22"))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--signing-key",
    "signing_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Key of the installation that made the backup; by default backup.key in the data folder.",
)
@click.option("--unsigned", is_flag=True, help="Restore it whoever made or changed it.")
@click.option(
    "--encryption-key",
    "encryption_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the age identity of an encrypted backup.",
)
@click.option(
    "--erased-in",
    metavar="FOLDER",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A newer backup: whom it erased stays erased. By default the newest beside this one.",
)
def restore(
    folder: Path,
    signing_file: Path | None,
    unsigned: bool,
    encryption_file: Path | None,
    erased_in: Path | None,
) -> None:
    """Restore a backup into an empty data folder or database; stop the bot first."""
    settings = load_settings()
    key = None if unsigned else SigningKey.read(signing_file or settings.storage.backup_key_path)
    newer = erased_in or newest_beside(folder)
    with open_database(settings.storage) as database:
        made = restore_backup(
            folder,
            database,
            settings.storage.adapters_path,
            key=key,
            encryption=EncryptionKey.read(encryption_file) if encryption_file else None,
            newer=newer,
        )
    with open_store(settings) as store:
        store.audit.note(f"restore {folder}", name=COMMAND_LINE)
    click.echo(_summary(made, "is restored, and its hashes are right"))
    if newer is not None:
        click.echo(f"Whoever was erased since then, by {newer}, is erased again.")
    else:
        click.echo("There is no newer backup beside it: whoever was erased since then is back.")


def _summary(made: Manifest, what: str) -> str:
    rows = made.rows
    return (
        f"The backup of {made.created_at} {what}: {rows['turns']} turns, {rows['feedback']} "
        f"ratings, {rows['documents']} documents, {len(made.adapters)} adapters."
    )
