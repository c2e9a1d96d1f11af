"""The `ratchet` command, as a person or a script uses it."""

import json
import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.tiny_models import make_tiny_tokenizer
from store.database import Database
from store.tables import CorrectionRow, FeedbackRow
from tests.e2e.conftest import RATCHET, Home
from tests.vllm import FakeVllm

FACT = "# Harbour notes\n\nThe harbour master of Skerrow is called Martin Brask.\n"


async def test_once_as_json_is_one_document_with_the_keys_of_the_design(home: Home) -> None:
    done = await home.ratchet("chat", "--once", "What is the capital of France?", "--json")

    answer = json.loads(done.out)
    assert (done.code, done.out.count("\n")) == (0, 1)
    assert "Paris" in answer["reply"]
    assert set(answer) == {
        "reply",
        "turn_id",
        "adapter",
        "sources",
        "prompt_tokens",
        "completion_tokens",
        "seconds",
    }


async def test_a_folder_is_ingested_searched_listed_and_removed(home: Home) -> None:
    folder = home.folder / "notes"
    folder.mkdir()
    (folder / "harbour.md").write_text(FACT)
    (folder / ".hidden.md").write_text("secret")
    await home.ratchet("db", "upgrade")

    ingested = await home.ratchet("ingest", "notes")
    again = await home.ratchet("ingest", "notes")
    found = await home.ratchet("knowledge", "search", "who is the harbour master?")
    listed = await home.ratchet("knowledge", "list")
    reindexed = await home.ratchet("knowledge", "reindex")
    answered = await home.ratchet(
        "chat", "--once", "What is the harbour master of Skerrow called?", temperature="0"
    )
    removed = await home.ratchet("knowledge", "remove", "1")
    gone = await home.ratchet("knowledge", "search", "who is the harbour master?")

    assert "added" in ingested.out
    assert "hidden" not in ingested.out
    assert "unchanged" in again.out
    assert "Martin Brask" in found.out
    assert "harbour.md" in listed.out
    assert "indexed" in reindexed.out
    assert "Martin" in answered.out
    assert "Harbour notes" in answered.out
    assert "Removed harbour.md" in removed.out
    assert "No passage is close enough" in gone.out


async def test_a_file_that_cannot_be_read_does_not_stop_the_others(home: Home) -> None:
    (home.folder / "good.md").write_text(FACT)
    (home.folder / "bad.pdf").write_bytes(b"not a pdf")
    await home.ratchet("db", "upgrade")

    done = await home.ratchet("ingest", "bad.pdf", "good.md")

    assert done.code == 1
    assert "added" in done.out
    assert re.search(r"failed +bad\.pdf: .+", done.out)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nope"], 2, "nope"),
        (["chat", "--json"], 2, "--once"),
        (["chat", "--once", " "], 2, "needs a text to answer"),
        (["chat", "--once", "hi", "--adapter", "a1-00000000"], 1, "no adapter a1-00000000"),
        (["ingest", "missing.md"], 2, "missing.md"),
        (["knowledge", "remove", "99"], 1, "no document 99"),
        (["bot"], 2, "RATCHET_TELEGRAM_TOKEN"),
        (["run"], 2, "RATCHET_TELEGRAM_TOKEN"),
    ],
)
async def test_what_cannot_be_done_is_said_in_one_line(
    home: Home, arguments: list[str], code: int, said: str
) -> None:
    await home.ratchet("db", "upgrade")

    done = await home.ratchet(*arguments)

    assert done.code == code
    assert re.fullmatch(rf"ratchet: .*{re.escape(said)}.*\n", done.err)
    assert done.out == ""


async def test_a_schema_that_is_not_at_head_is_refused_with_the_command(home: Home) -> None:
    done = await home.ratchet("status")

    assert done.code == 1
    assert "ratchet db upgrade" in done.err


async def test_a_setting_that_cannot_be_used_is_named(home: Home) -> None:
    done = await home.ratchet("status", top_p="7")

    assert done.code == 2
    assert "RATCHET_TOP_P" in done.err


async def test_status_as_json_has_the_keys_of_the_design(home: Home) -> None:
    await home.ratchet("db", "upgrade")

    done = await home.ratchet("status", "--json")

    assert set(json.loads(done.out)) == {
        "adapter",
        "engine",
        "model",
        "database",
        "schema",
        "chroma",
        "turns",
        "ratings",
        "pending_documents",
        "queue",
        "next_run",
    }


async def test_doctor_finds_everything_in_order_and_says_what_is_not(home: Home) -> None:
    before = await home.ratchet("doctor")
    await home.ratchet("db", "upgrade")
    after = await home.ratchet("doctor")

    assert (before.code, after.code) == (1, 0)
    assert "ratchet db upgrade" in before.out
    assert "FAILED" not in after.out


async def test_doctor_asks_the_vllm_servers_with_their_key(home: Home) -> None:
    await home.ratchet("db", "upgrade")
    async with FakeVllm(make_tiny_tokenizer(), key="sesame") as server:
        addresses = {"vllm_url": f"{server.url},http://127.0.0.1:9"}
        stranger = await home.ratchet("doctor", **addresses)
        known = await home.ratchet("doctor", **addresses, vllm_key="sesame")

    assert f"FAILED  vllm      {server.url} refuses the key: check RATCHET_VLLM_KEY" in stranger.out
    assert f"ok      vllm      {server.url}" in known.out
    assert "FAILED  vllm      cannot reach http://127.0.0.1:9" in known.out
    assert (stranger.code, known.code) == (1, 1)


async def test_what_is_kept_is_backed_up_and_restored_into_another_folder(home: Home) -> None:
    (home.folder / "harbour.md").write_text(FACT)
    await home.ratchet("db", "upgrade")
    await home.ratchet("ingest", "harbour.md")
    elsewhere = str(home.folder / "elsewhere")

    made = await home.ratchet("backup", "backup")
    twice = await home.ratchet("backup", "backup")
    keyless = await home.ratchet("restore", "backup", data_dir=elsewhere)
    signed = ("restore", "backup", "--signing-key", str(home.folder / "backup.key"))
    back = await home.ratchet(*signed, data_dir=elsewhere)
    over = await home.ratchet(*signed, data_dir=elsewhere)
    listed = await home.ratchet("knowledge", "list", data_dir=elsewhere)

    assert "0 turns, 0 ratings, 1 documents, 0 adapters" in made.out
    assert "1 documents" in back.out
    assert "harbour.md" in listed.out
    assert [each.code for each in (made, twice, keyless, back, over)] == [0, 1, 1, 0, 1]
    assert "--signing-key" in keyless.err
    assert "exists already" in twice.err
    assert "has rows already" in over.err


async def test_every_command_has_help_with_an_example(home: Home) -> None:
    for command in (
        ["run"],
        ["bot"],
        ["chat"],
        ["ingest"],
        ["status"],
        ["doctor"],
        ["backup"],
        ["restore"],
        ["db", "upgrade"],
        *(["knowledge", each] for each in ("list", "search", "remove", "reindex")),
    ):
        done = await home.ratchet(*command, "--help")

        assert (done.code, "Example: " in done.out) == (0, True), command


class TerminalSession:
    """A session of `ratchet run` on a pseudo-terminal."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._end, other = pty.openpty()
        self.process = subprocess.Popen(
            [*RATCHET, "run"], stdin=other, stdout=other, stderr=other, env=environment, cwd=folder
        )
        os.close(other)
        self._seen = ""

    def say(self, line: str) -> str:
        """Type a line; return what is printed until the next prompt."""
        os.write(self._end, line.encode() + b"\n")
        return self.until("\n> ")

    def until(self, text: str, seconds: float = 60) -> str:
        """Return what is printed up to and with some text."""
        deadline = time.monotonic() + seconds
        while text not in self._seen:
            assert time.monotonic() < deadline, self._seen
            if select.select([self._end], [], [], 0.2)[0]:
                self._seen += os.read(self._end, 65536).decode(errors="replace").replace("\r", "")
        seen, self._seen = self._seen.split(text, 1)
        return seen + text

    def close(self) -> int:
        """Type Ctrl-D; return the exit code."""
        os.write(self._end, b"\x04")
        code = self.process.wait(30)
        os.close(self._end)
        return code


def test_run_without_a_token_opens_the_conversation_in_the_terminal(home: Home) -> None:
    session = TerminalSession(home.settings({"temperature": "0"}), home.folder)
    session.until("\n> ", seconds=90)

    unrated = session.say("/good")
    answered = session.say("What is the capital of France?")
    good = session.say("/good")
    fixed = session.say("/fix Paris, of course.")
    again = session.say("/again")
    why = session.say("/why")
    unknown = session.say("/dance")
    new = session.say("/new")
    code = session.close()

    assert "no reply yet" in unrated
    assert "Paris" in answered
    assert "👍 recorded" in good
    assert "recorded" in fixed
    assert again.strip()
    assert "SmolLM2" in why
    assert "I do not know /dance" in unknown
    assert "new conversation" in new
    assert code == 0
    database = Database(home.database_url)
    with database.reading() as rows:
        assert [row.rating for row in rows.query(FeedbackRow)] == [1]
        assert [row.text for row in rows.query(CorrectionRow)] == ["Paris, of course."]
    database.close()
