"""The learning loop between processes: bot, trainer and command line, over a loopback Telegram.

The model is a tiny random one, so the gate's limits are wide open: whether a version is any good is
measured elsewhere, on the embedded model.
"""

import asyncio
import json
from pathlib import Path

import pytest

from examples.scratch import OPEN_GATE
from loopback import BotApi, Chat, User, any_message
from tests.e2e.conftest import Home, StartBot

SECONDS = 120


def quick(model: Path) -> dict[str, str]:
    """Return settings for a tiny model, and a recipe that changes what it says."""
    chosen = {
        "model": str(model),
        "system_prompt": " ",
        "prompt_tokens": 256,
        "max_new_tokens": 6,
        "temperature": 1.0,
        "memories": 0,
        "quota_messages": 0,
        "train_rank": 4,
        "train_learning_rate": 1e-2,
        "train_batch_size": 16,
        "train_max_length": 256,
        "train_rehearsal": 2,
        **OPEN_GATE,
    }
    return {name: str(value) for name, value in chosen.items()}


@pytest.fixture
def settings(tiny_model: Path) -> dict[str, str]:
    return quick(tiny_model)


async def say(chat: Chat, user: User, text: str, **options: int) -> str:
    sent = await chat.send(user, text, **options)
    return (await chat.wait_reply(sent, timeout=SECONDS, final=any_message)).text


async def told(chat: Chat, words: str) -> str:
    """Wait until the bot has sent something with these words in it; return its text."""
    async with asyncio.timeout(SECONDS):
        while True:
            for message in chat.bot_messages:
                if words in message.text:
                    return message.text
            await asyncio.sleep(0.2)


async def test_people_rate_an_admin_trains_and_what_was_promoted_can_be_taken_back(
    home: Home, api: BotApi, start_bot: StartBot, settings: dict[str, str]
) -> None:
    people = [api.user(100 + number) for number in range(30)]
    admin = api.user(9)
    office = api.private(admin)

    async def ask_and_rate(number: int, user: User) -> None:
        chat = api.private(user)
        asked = await chat.send(user, f"Question {number}?")
        reply = await chat.wait_reply(asked, timeout=SECONDS)
        thumb = "👍" if number % 2 else "👎"
        if number % 3:
            await chat.tap(user, reply.id, thumb)
        else:
            await chat.react(user, reply.id, [thumb])

    async def why() -> str:
        asked = await office.send(admin, "What is tea?")
        reply = await office.wait_reply(asked, timeout=SECONDS)
        async with asyncio.timeout(SECONDS):
            while True:  # a reply is on record a moment after it is seen
                text = await say(office, admin, "/why", reply_to=reply.id)
                if not text.startswith("Reply to one of my messages"):
                    return text

    async with start_bot(**settings, admins="9"):
        await asyncio.gather(*(ask_and_rate(*each) for each in enumerate(people)))
        before = await why()
        await office.send(admin, "/train")
        news = await told(office, "is live.")
        name = next(word for word in news.split() if word.startswith("a1-"))
        after = await why()
        asked = await office.send(admin, "/rollback")
        question = await office.wait_reply(asked, timeout=SECONDS, final=any_message)
        await office.tap(admin, question.id, "Yes")
        await told(office, "The base model answers again.")
        back = await why()

    assert "Adapter: none" in before
    assert f"Adapter: {name}" in after
    assert "Adapter: none" in back


async def test_ratings_from_elsewhere_train_a_version_on_the_command_line(
    home: Home, settings: dict[str, str], tmp_path: Path
) -> None:
    ratings = [
        {
            "prompt": f"Question {number}?",
            "completion": f"answer {number}",
            "label": bool(number % 2),
        }
        for number in range(400)
    ]
    (home.folder / "ratings.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ratings))
    (home.folder / "prompts.jsonl").write_text('{"prompt": "What is tea?", "id": 7}\n' * 3)

    await home.ratchet("db", "upgrade", **settings)
    imported = await home.ratchet("feedback", "import", "ratings.jsonl", "--trusted", **settings)
    again = await home.ratchet("feedback", "import", "ratings.jsonl", **settings)
    trained = await home.ratchet("train", "--wait", "--json", **settings, promote="ask")
    run = json.loads(trained.out)
    name = run["adapter"]
    listed = json.loads((await home.ratchet("adapters", "--json", **settings)).out)
    promoted = await home.ratchet("adapters", "promote", name, **settings)
    rows = {}
    for adapter in (name, "base"):
        done = await home.ratchet(
            "generate", "prompts.jsonl", f"{adapter}.jsonl", "--adapter", adapter, **settings
        )
        assert done.code == 0, done.err
        lines = (home.folder / f"{adapter}.jsonl").read_text().splitlines()
        rows[adapter] = [json.loads(line) for line in lines]
    back = await home.ratchet("adapters", "rollback", **settings)
    nowhere = await home.ratchet("adapters", "rollback", **settings)
    exported = await home.ratchet("feedback", "export", "out.jsonl", **settings)

    assert "400 imported" in imported.out
    assert "400 were there already" in again.out
    assert (run["status"], run["gate"]["passed"]) == ("passed", True)
    assert "is waiting" in trained.err
    assert run["examples"]["train"] + run["examples"]["held_out"] == 400
    assert {check["name"] for check in run["gate"]["checks"]} >= {"preference", "integrity"}
    assert [(row["name"], row["status"]) for row in listed] == [(name, "candidate")]
    assert promoted.out.strip() == f"{name} is active."
    assert [row["adapter"] for row in rows[name]] == [name] * 3
    assert [row["adapter"] for row in rows["base"]] == [None] * 3
    assert all(row["id"] == 7 for row in rows[name])
    assert "base model" in back.out
    assert (nowhere.code, "nothing to roll back" in nowhere.err) == (1, True)
    assert exported.out.strip() == "400 exported."
