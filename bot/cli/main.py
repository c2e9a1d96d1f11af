"""The `ratchet` command: reads arguments and settings, calls the rest of the bot, and prints.

Exit codes: 0 success, 1 failure, 2 wrong usage. An error is one line on stderr.
"""

import asyncio
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from bot.app import Store, make_indexer, open_database, open_store
from bot.cli.backups import backup, restore
from bot.cli.console import example, opened_store, out, print_json
from bot.cli.feedback import feedback, golden
from bot.cli.ingest import Ingested, ingest
from bot.cli.learning import adapters, generate, train, trainer
from bot.cli.worker_process import supervised_worker
from bot.engine.errors import EngineError
from bot.errors import BotError, UsageError
from bot.serving import serve_telegram
from store.domain import Document
from store.errors import IndexInUse, SettingsError, StoreError
from store.logs import set_up_logging
from store.settings import Settings, load_settings

if TYPE_CHECKING:
    from bot.cli.terminal import ChooseAdapter

NO_TERMINAL = (
    "there is neither a Telegram token nor a terminal: set RATCHET_TELEGRAM_TOKEN, "
    "or use `ratchet chat --once TEXT`"
)


def main() -> None:
    """Run the command line and exit."""
    os.umask(0o077)  # what is written holds what people said
    try:
        sys.exit(cli.main(prog_name="ratchet", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        sys.exit(2)
    except click.ClickException as error:
        _stop(error.format_message(), code=2)
    except (UsageError, SettingsError) as error:
        _stop(str(error), code=2)
    except (BotError, EngineError, StoreError) as error:
        _stop(str(error), code=1)
    except (click.Abort, KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)


def _stop(message: str, *, code: int) -> None:
    click.echo(f"ratchet: {' '.join(message.split())}", err=True)
    sys.exit(code)


@click.group(epilog="Settings are RATCHET_* variables or a .env file; .env.example lists them.")
@click.version_option(package_name="ratchet-assistant")
def cli() -> None:
    """A self-hosted assistant that learns from the people who talk to it."""


@cli.command(epilog=example("ratchet run"))
def run() -> None:
    """Upgrade the database, then talk and learn: in Telegram if a token is set, else here."""
    settings = load_settings()
    if settings.telegram.token is None and not sys.stdin.isatty():
        raise UsageError(NO_TERMINAL)
    _upgrade(settings)
    with supervised_worker(
        settings.monitoring.log_level if settings.telegram.token else "CRITICAL"
    ):
        _talk(settings)


@cli.command(epilog=example("RATCHET_TELEGRAM_TOKEN=… ratchet bot"))
def bot() -> None:
    """Talk in Telegram without learning; needs an upgraded database."""
    settings = load_settings()
    if settings.telegram.token is None:
        raise UsageError("set RATCHET_TELEGRAM_TOKEN to a token from @BotFather")
    _talk(settings)


def _talk(settings: Settings) -> None:
    with_telegram, chosen = settings.telegram.token is not None, settings.monitoring
    set_up_logging(chosen.log_level if with_telegram else "WARNING", chosen.log_format)
    with open_store(settings) as store:
        if with_telegram:
            asyncio.run(serve_telegram(store))
        else:
            _terminal(store, None)


@cli.command(epilog=example('ratchet chat --once "What is the capital of France?" --json'))
@click.option("--once", metavar="TEXT", help="Ask one question and exit.")
@click.option(
    "--adapter",
    metavar="NAME",
    help="Version to answer with, or `base`; by default the active one.",
)
@click.option("--json", "as_json", is_flag=True, help="With --once: print one JSON document.")
def chat(once: str | None, adapter: str | None, as_json: bool) -> None:
    """Talk in this terminal."""
    if as_json and once is None:
        raise UsageError("--json goes with --once TEXT")
    settings = load_settings()
    _upgrade(settings)
    with opened_store() as store:
        if once is None:
            _terminal(store, adapter)
        else:
            _once(store, once, adapter, as_json=as_json)


def _fixed(store: Store, adapter: str | None) -> "ChooseAdapter | None":
    """Return a chooser of the version that `--adapter` names; None for the active one."""
    if adapter is None:
        return None
    chosen = None if adapter == "base" else store.adapters.get(adapter)
    return lambda: chosen


def _terminal(store: Store, adapter: str | None) -> None:
    from bot.cli.terminal import Terminal

    Terminal(store, make_indexer(store), out, _fixed(store, adapter)).run()


def _once(store: Store, question: str, adapter: str | None, *, as_json: bool) -> None:
    from bot.cli.terminal import answer_of, ask_once

    def show(piece: str) -> None:
        if not as_json:
            click.echo(piece, nl=False)

    turn = asyncio.run(ask_once(store, question, choose_adapter=_fixed(store, adapter), show=show))
    if as_json:
        print_json(asdict(answer_of(turn)))
        return
    click.echo()
    for passage in turn.passages:
        click.echo(f"  [{passage.score:.2f}] {passage.source}")


@cli.command("ingest", epilog=example("ratchet ingest handbook/ prices.csv"))
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
def ingest_(paths: tuple[Path, ...]) -> None:
    """Add files or folders to the documents."""
    with opened_store(changes=True) as store:
        results = ingest(store.knowledge, paths, _report)
        _index(store)
    failed = sum(result.document is None for result in results)
    if not results:
        raise UsageError("there is no file of a readable type")
    if failed:
        raise BotError(f"{failed} of {len(results)} files could not be added")


def _report(result: Ingested) -> None:
    if result.document is None:
        click.echo(f"failed     {result.path}: {result.reason}")
    else:
        click.echo(f"{result.outcome:<10} {result.path} (passages: {result.document.chunks})")


def _index(store: Store, *, anew: bool = False) -> None:
    def report(document: Document) -> None:
        click.echo(f"indexed    {document.name}")

    try:
        if anew:
            store.knowledge.reindex(report)
        elif not store.knowledge.settled():
            store.knowledge.index_pending(report)
    except IndexInUse:
        if store.knowledge.pending():
            click.echo(
                "The running bot has the index open and will index within seconds.", err=True
            )


@cli.group()
def knowledge() -> None:
    """List, search and remove documents."""


@knowledge.command("list", epilog=example("ratchet knowledge list"))
def list_documents() -> None:
    """List the documents."""
    with opened_store() as store:
        table = Table("id", "name", "title", "passages", "indexed", "added", box=None)
        for each in store.knowledge.documents():
            row = (each.id, each.name, each.title, each.chunks)
            indexed, added = "yes" if each.indexed else "pending", f"{each.created_at:%Y-%m-%d}"
            table.add_row(*map(str, row), indexed, added)
        out.print(table)


@knowledge.command(epilog=example('ratchet knowledge search "opening hours"'))
@click.argument("text")
def search(text: str) -> None:
    """Show the passages that would be used to answer a question."""
    with opened_store() as store:
        _index(store)
        settings = store.settings.retrieval
        passages = store.knowledge.search(
            text,
            count=settings.passages,
            floor=settings.passage_floor,
            margin=settings.passage_margin,
        )
        for passage in passages:
            click.echo(f"[{passage.score:.2f}] {passage.source}\n{passage.text}\n")
        if not passages:
            click.echo("No passage is close enough.")


@knowledge.command(epilog=example("ratchet knowledge remove 3"))
@click.argument("document_id", metavar="ID", type=int)
def remove(document_id: int) -> None:
    """Remove a document."""
    with opened_store(changes=True) as store:
        document = store.knowledge.remove(document_id)
        _index(store)
        click.echo(f"Removed {document.name}.")


@knowledge.command(epilog=example("ratchet knowledge reindex"))
def reindex() -> None:
    """Rebuild the index of all documents."""
    with opened_store(changes=True) as store:
        _index(store, anew=True)


@cli.command(epilog=example("ratchet status --json"))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def status(as_json: bool) -> None:
    """Show the status."""
    with opened_store() as store:
        now = store.status.read()
    if as_json:
        print_json(asdict(now))
        return
    for name, value in now.rows():
        click.echo(f"{name.replace('_', ' '):<18} {value}")


@cli.command(epilog=example("ratchet doctor"))
def doctor() -> None:
    """Check that everything needed is there, and say what to do if not."""
    from bot.app import make_index
    from bot.cli.doctor import examine

    settings = load_settings()
    set_up_logging("ERROR")
    findings = list(examine(settings, make_index(settings)))
    for finding in findings:
        click.echo(f"{'ok' if finding.fine else 'FAILED':<7} {finding.name:<9} {finding.detail}")
    failed = [finding.name for finding in findings if not finding.fine]
    if failed:
        raise BotError(f"failed: {', '.join(failed)}")


for command in (train, trainer, adapters, feedback, golden, generate, backup, restore):
    cli.add_command(command)


@cli.group()
def audit() -> None:
    """Show and check the audit log."""


@audit.command("list", epilog=example("ratchet audit list --last 50"))
@click.option("--last", type=click.IntRange(1), default=30, show_default=True, help="Entries.")
def list_audit(last: int) -> None:
    """Show the newest entries, newest first."""
    with opened_store() as store:
        for each in store.audit.recent(last):
            click.echo(f"{each.id}  {each.line}")


@audit.command("verify", epilog=example("ratchet audit verify"))
def verify_audit() -> None:
    """Check that no entry was changed, taken out or put in."""
    with opened_store() as store:
        chain = store.audit.verify()
    if chain.broken:
        raise BotError(f"entries that do not follow from the one before: {chain.broken}")
    click.echo(f"{chain.entries} entries, each of which follows from the one before.")
    click.echo(f"The hash of the last one: {chain.last_hash}")


@cli.group()
def db() -> None:
    """Upgrade the schema of the database."""


@db.command(epilog=example("ratchet db upgrade"))
def upgrade() -> None:
    """Upgrade the schema to the version that this program needs."""
    _upgrade(load_settings())
    click.echo("The database schema is at head.")


def _upgrade(settings: Settings) -> None:
    with open_database(settings.storage) as database:
        database.upgrade()
