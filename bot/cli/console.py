"""What the commands share: where they print, how they open the store, how help shows an example."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console

from bot.app import Store, open_store
from store.logs import set_up_logging
from store.settings import load_settings

out = Console(soft_wrap=True)
"""What was asked for. Advice and progress go to stderr through `click.echo(err=True)`."""


@contextmanager
def opened_store() -> Iterator[Store]:
    """The store, for a command that prints."""
    settings = load_settings()
    set_up_logging("WARNING")
    with open_store(settings) as store:
        yield store


def example(text: str) -> str:
    """The last line of a command's help."""
    return f"Example: {text}"


def print_json(value: object) -> None:
    """One JSON document and nothing else."""
    click.echo(json.dumps(value, ensure_ascii=False))
