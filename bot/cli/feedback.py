"""The commands `feedback` and `golden`: preference files in and out."""

import getpass
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten

import click

from bot.cli.console import example, opened_store, print_json
from bot.errors import BotError
from store.preferences import read_preferences, write_preferences


@click.group()
def feedback() -> None:
    """Import and export ratings in TRL's preference formats."""


@feedback.command("import", epilog=example("ratchet feedback import ratings.jsonl"))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--trusted", is_flag=True, help="Give it as much weight as an admin's own ratings.")
def import_(file: Path, trusted: bool) -> None:
    """Import preferences; with an invalid line, nothing is imported.

    All of a file together counts as one new person, unless it is --trusted: then it may give any
    part of what is trained on and measured with.
    """
    preferences = read_preferences(file)
    with opened_store(changes=True) as store:
        added = store.imports.take_in(
            preferences, source=file.name, imported_by=getpass.getuser(), trusted=trusted
        )
    known = len(preferences) - added
    click.echo(f"{added} imported" + (f", {known} were there already." if known else "."))
    if added and not trusted:
        click.echo("They count as one new person. If you trust them, forget and import --trusted.")


@feedback.command(epilog=example("ratchet feedback imports"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def imports(as_json: bool) -> None:
    """List the imports: when, by whom, from which file."""
    with opened_store() as store:
        found = store.imports.all()
    if as_json:
        print_json([{**asdict(each), "created_at": each.created_at.isoformat()} for each in found])
        return
    for each in found:
        trust = "trusted" if each.trusted else "counts as one new person"
        by = f" by {each.imported_by}" if each.imported_by else ""
        click.echo(
            f"{each.id}  {each.created_at:%Y-%m-%d %H:%M}  {each.preferences} from "
            f"{each.source}{by}, {trust}"
        )
    if not found:
        click.echo("Nothing was imported.")


@feedback.command("forget", epilog=example("ratchet feedback forget 3"))
@click.argument("import_id", metavar="ID", type=int)
def forget_import(import_id: int) -> None:
    """Withdraw an import: nothing of it is trained on or measured with again."""
    with opened_store(changes=True) as store:
        versions = store.imports.withdraw(import_id)
    click.echo(f"Import {import_id} is gone.")
    if versions:
        click.echo(
            f"{', '.join(versions)} learned from it and cannot forget it: roll back, or train anew."
        )


@feedback.command(epilog=example("ratchet feedback export ratings.jsonl"))
@click.argument("file", type=click.Path(path_type=Path))
def export(file: Path) -> None:
    """Export everything that may be trained on, one JSON object per line."""
    with opened_store() as store:
        lines = list(write_preferences(store.examples.collect()))
    try:
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise BotError(f"cannot write {file}: {error.strerror}") from error
    click.echo(f"{len(lines)} exported.")


@click.group()
def golden() -> None:
    """Answers that every version must still know: measured, and never trained on."""


@golden.command("import", epilog=example("ratchet golden import answers.jsonl"))
@click.argument("file", type=click.Path(path_type=Path))
def import_golden(file: Path) -> None:
    """Import golden answers from a preference file; with an invalid line, nothing is imported."""
    preferences = read_preferences(file)
    with opened_store(changes=True) as store:
        added = store.golden.take_in(preferences, source=file.name)
    left_out = len(preferences) - added
    click.echo(
        f"{added} imported" + (f", {left_out} were golden already or bad." if left_out else ".")
    )


@golden.command("list", epilog=example("ratchet golden list"))
def list_golden() -> None:
    """List the golden answers."""
    with opened_store() as store:
        found = store.golden.all()
    for each in found:
        question = " ".join(each.prompt[-1].content.split())
        click.echo(
            f"{each.id}  ({each.source}) {shorten(question, 60)} → {shorten(each.answer, 80)}"
        )
    if not found:
        click.echo("No answer is golden. Reply to one of the bot's with /golden, or import some.")


@golden.command("forget", epilog=example("ratchet golden forget 3"))
@click.argument("golden_id", metavar="ID", type=int)
def forget_golden(golden_id: int) -> None:
    """Let an answer no longer be golden."""
    with opened_store(changes=True) as store:
        store.golden.drop(golden_id)
    click.echo(f"Answer {golden_id} is no longer golden.")
