"""The commands `feedback` and `golden`, as they are typed."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bot.cli.main import cli
from store.database import Database

LINES = (
    {"prompt": "When do you open?", "completion": "At nine.", "label": True},
    {"prompt": "When do you close?", "completion": "Never.", "label": False},
    {"prompt": "Who are you?", "chosen": "The shop's bot.", "rejected": "A pirate."},
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a preference file beside an empty database at head."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RATCHET_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    database = Database(f"sqlite:///{tmp_path / 'data' / 'ratchet.db'}")
    database.upgrade()
    database.close()
    path = tmp_path / "good.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in LINES), encoding="utf-8")
    return path


def typed(*words: str) -> Result:
    return CliRunner().invoke(cli, words)


def test_an_import_is_listed_and_withdrawn(file: Path) -> None:
    assert typed("feedback", "imports").output == "Nothing was imported.\n"
    assert "They count as one new person." in typed("feedback", "import", file.name).output

    [found] = json.loads(typed("feedback", "imports", "--json").output)
    assert (found["source"], found["preferences"], found["trusted"]) == ("good.jsonl", 3, False)
    assert found["imported_by"]
    assert "3 from good.jsonl by " in typed("feedback", "imports").output
    assert typed("feedback", "forget", str(found["id"])).output == "Import 1 is gone.\n"
    assert typed("feedback", "imports").output == "Nothing was imported.\n"


def test_a_trusted_import_says_so(file: Path) -> None:
    assert typed("feedback", "import", file.name, "--trusted").output == "3 imported.\n"
    assert typed("feedback", "imports").output.rstrip().endswith(", trusted")


def test_an_import_that_is_not_there_is_named(file: Path) -> None:
    result = typed("feedback", "forget", "7")

    assert result.exit_code != 0
    assert "there is no import 7" in str(result.exception or result.output)


def test_golden_answers_are_imported_listed_and_dropped(file: Path) -> None:
    assert typed("golden", "list").output.startswith("No answer is golden.")
    assert typed("golden", "import", file.name).output == (
        "2 imported, 1 were golden already or bad.\n"
    )
    assert "(good.jsonl) When do you open? → At nine." in typed("golden", "list").output

    assert typed("golden", "forget", "1").output == "Answer 1 is no longer golden.\n"

    assert typed("golden", "list").output.count("→") == 1
