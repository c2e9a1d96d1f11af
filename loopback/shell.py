"""A console for the loopback Telegram: typed lines are messages, the bot's acts are printed.

`+ID` and `-ID` tap the 👍 or 👎 button of a message; any other line is sent as the one
person of one private chat.
"""

import asyncio
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from loopback.objects import Draft, Message, User

if TYPE_CHECKING:
    from loopback import BotApi
    from loopback.telegram_chat import Chat

MAX_WAITING_LINES = 100


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def read_lines(loop: asyncio.AbstractEventLoop, lines: "asyncio.Queue[str]") -> None:
    """Feed stdin to `lines` from a thread; lines beyond the queue's size are dropped."""

    def offer(line: str) -> None:
        if not lines.full():
            lines.put_nowait(line)

    rest = b""
    # os.read, because a thread inside sys.stdin would hold its lock at interpreter exit.
    while chunk := os.read(sys.stdin.fileno(), 65536):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            loop.call_soon_threadsafe(offer, line.decode(errors="replace").strip())


def shown(message: Message) -> str:
    """Return one message of the bot as a line, with its buttons."""
    state = f" (edit {message.edit_count})" if message.edit_count else ""
    buttons = "  ".join(f"[{label}]" for label in message.labels)
    file = f"<{message.attachment.name}> " if message.attachment else ""
    return f"#{message.id}{state} {file}{message.text}" + (f"\n    {buttons}" if buttons else "")


async def show_changes(api: "BotApi", chat: "Chat") -> None:
    """Print every new or changed message and every draft frame, forever."""
    seen: dict[int, Message] = {}
    frames = 0

    def fresh() -> tuple[list[Message], list[Draft], list[int]]:
        changed = [each for each in chat.bot_messages if seen.get(each.id) is not each]
        gone = [message_id for message_id in seen if chat.find(message_id) is None]
        return changed, chat.draft_history[frames:], gone

    while True:
        try:
            await api.wait_for(lambda: any(fresh()), timeout=3600)
        except TimeoutError:
            continue
        messages, drafts, gone = fresh()
        for draft in drafts:
            say(f"~ {draft.text or 'Thinking…'}")
        for message in messages:
            seen[message.id] = message
            say(shown(message))
        for message_id in gone:
            del seen[message_id]
            say(f"#{message_id} deleted")
        frames = len(chat.draft_history)


async def act(chat: "Chat", person: User, line: str) -> None:
    """Do what one typed line says."""
    if line[0] in "+-" and line[1:].isdigit():
        thumb = "👍" if line[0] == "+" else "👎"
        try:
            answer = await chat.tap(person, int(line[1:]), thumb)
            say(f"({answer.text or 'tapped'})")
        except (LookupError, TimeoutError) as error:
            say(f"({error or 'the bot did not answer the tap'})")
        return
    try:
        say(f"#{await chat.send(person, line)} you: {line}")
    except ValueError as error:
        say(f"({error})")


async def take_lines(chat: "Chat", person: User, lines: "asyncio.Queue[str]") -> None:
    """Act on typed lines in order, forever."""
    while True:
        if line := await lines.get():
            await act(chat, person, line)


async def serve(api: "BotApi") -> None:
    """Serve `api` and the console until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)
    lines: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING_LINES)
    async with api:
        person = api.user(1, first_name="You", username="you", language_code="en")
        chat = api.private(person)
        say(f"serving {api.url}  base_url={api.url}/bot  base_file_url={api.url}/file/bot")
        say("type to send; +ID or -ID taps 👍 or 👎; Ctrl-C ends")
        reader = threading.Thread(
            target=read_lines, args=(loop, lines), name="console-stdin", daemon=True
        )
        reader.start()
        tasks = [
            asyncio.create_task(show_changes(api, chat), name="console-out"),
            asyncio.create_task(take_lines(chat, person, lines), name="console-in"),
        ]
        await stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
