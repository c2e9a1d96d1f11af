"""Output, access to the store, and examples in help, for all commands."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console

from bot.app import Store, open_store
from store.audit import COMMAND_LINE
from store.logs import set_up_logging
from store.settings import load_settings

out = Console(soft_wrap=True)
"""Standard output, for results. Advice and progress go to stderr by `click.echo(err=True)`."""


@contextmanager
def opened_store(*, changes: bool = False) -> Iterator[Store]:
    """Read the settings and open the store for the length of the block; log only warnings.

    A command that `changes` something stands in the audit log.
    """
    settings = load_settings()
    set_up_logging("WARNING")
    with open_store(settings) as store:
        if changes:
            store.audit.note(" ".join(sys.argv[1:]), name=COMMAND_LINE)
        yield store


def example(text: str) -> str:
    """Return the last line of a command's help."""
    return f"Example: {text}"


def print_json(value: object) -> None:
    """Print a value as one JSON document."""
    click.echo(json.dumps(value, ensure_ascii=False))
