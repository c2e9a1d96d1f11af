"""Uploaded files are read in a process that can do no harm."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from store.documents.parser import parse
from store.documents.sandbox import COMMAND, cuts_network, parse_apart
from store.errors import EmptyDocument, UnreadableDocument, UnsupportedDocument

PAGE = "<html><head><title>Tea</title></head><body><h1>Green</h1><p>Steep it.</p></body></html>"

MEMORY = 2**27
"""Memory limit in bytes, enough for a page."""


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tea.html", PAGE.encode()),
        ("tea.csv", b"tea,minutes\ngreen,3\n"),
        ("tea.md", b"# Tea\n\nHot."),
    ],
)
def test_a_file_is_read_as_it_would_be_here(name: str, data: bytes) -> None:
    assert parse_apart(name, data) == parse(name, data)


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("tea.exe", b"MZ", UnsupportedDocument),
        ("tea.html", b"  ", EmptyDocument),
        ("tea.pdf", b"%PDF-1.7 and no more", UnreadableDocument),
        ("a\0b\n.json", b"{", UnreadableDocument),
    ],
)
def test_what_is_wrong_with_it_is_said_in_the_same_words(
    name: str, data: bytes, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as here:
        parse(name, data)
    with pytest.raises(kind) as apart:
        parse_apart(name, data)
    assert str(apart.value) == str(here.value)


@pytest.mark.bad_input("a file that takes all memory or time")
def test_a_file_that_needs_too_much_memory_is_refused() -> None:
    assert parse_apart("tea.html", PAGE.encode(), memory_bytes=MEMORY).sections
    with pytest.raises(UnreadableDocument, match="too much memory"):
        parse_apart("tea.html", PAGE.encode() + b"tea " * 5_000_000, memory_bytes=MEMORY)


@pytest.mark.bad_input("a file that takes all memory or time")
def test_a_file_that_takes_too_long_is_refused() -> None:
    with pytest.raises(UnreadableDocument, match="too long"):
        parse_apart("tea.html", PAGE.encode(), wall_seconds=0.001)


SPY = """
import json, os, socket, sys
from store.documents import sandbox
sandbox._limit(2**30)
found = {"variables": sorted(os.environ), "folder": os.getcwd()}
for name, attempt in {
    "network": lambda: socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=2),
    "file": lambda: open(sys.argv[2], "w").write("x"),
}.items():
    try:
        attempt()
        found[name] = "done"
    except OSError as error:
        found[name] = type(error).__name__
print(json.dumps(found))
"""


def test_what_takes_the_sandbox_over_has_no_token_no_network_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATCHET_TELEGRAM_TOKEN", "42:secret")
    monkeypatch.chdir(tmp_path)
    is_cut = cuts_network()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        spy = SPY.replace("sandbox._limit", "sandbox._leave_the_network(); sandbox._limit")
        done = subprocess.run(
            [sys.executable, "-I", "-c", spy, port, str(tmp_path / "left")],
            env={},
            cwd="/",
            capture_output=True,
            check=True,
        )
    found = json.loads(done.stdout)

    assert not [each for each in found["variables"] if "RATCHET" in each]
    assert found["folder"] == "/"
    assert found["file"] != "done" or (tmp_path / "left").read_text() == ""
    assert (found["network"] != "done") is is_cut


def test_the_reader_is_started_without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, object]] = []
    run = subprocess.run

    def note(*arguments: object, **options: object) -> object:
        started.append(options)
        return run(*arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr("store.documents.sandbox.subprocess.run", note)
    assert parse_apart("tea.html", PAGE.encode()).sections
    assert [(each["env"], each["cwd"]) for each in started] == [({}, "/")]
    assert "-I" in COMMAND
