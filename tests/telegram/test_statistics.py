"""`/stats`: a picture, and the same in a few words."""

import io
import sys

import pytest
from PIL import Image

from loopback import Chat, MediaKind, Message, User
from store.domain import Rating, RatingSource, RunStatus
from tests.telegram.conftest import MakeVersion
from tests.telegram.running import RunningBot, turn_id

PNG = b"\x89PNG\r\n\x1a\n"
MAX_PHOTO_BYTES = 10_000_000
MAX_PHOTO_SIDES = 10_000
"""Largest sum of width and height that Telegram accepts in a photo."""


async def stats(bot: RunningBot, office: Chat, grace: User) -> Message:
    """Ask for the picture."""
    sent = await office.send(grace, "/stats")
    shown = await office.wait_reply(sent, final=lambda message: message.attachment is not None)
    await bot.settle()
    return shown


def picture(message: Message) -> Image.Image:
    """Return the picture of a message, with the checks that Telegram makes."""
    attachment = message.attachment
    assert attachment is not None
    assert attachment.kind is MediaKind.PHOTO
    assert attachment.data.startswith(PNG)
    assert len(attachment.data) < MAX_PHOTO_BYTES
    image = Image.open(io.BytesIO(attachment.data))
    image.load()
    assert image.format == "PNG"
    assert sum(image.size) <= MAX_PHOTO_SIDES
    return image.convert("RGB")


def amount(image: Image.Image, color: tuple[int, int, int]) -> int:
    """Return the number of pixels in a color."""
    return {found: count for count, found in image.getcolors(1 << 24)}.get(color, 0)


GREEN, RED = (44, 160, 44), (214, 39, 40)


async def test_without_ratings_there_is_a_picture_that_says_so(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    shown = await stats(bot, office, grace)

    width, height = picture(shown).size
    assert 600 <= width <= 2000
    assert 600 <= height <= 2000
    assert shown.text == "Nobody has rated anything yet."


async def test_the_picture_shows_ratings_by_version(
    bot: RunningBot, make_version: MakeVersion, office: Chat, chat: Chat, ada: User, grace: User
) -> None:
    empty = picture(await stats(bot, office, grace))
    for text in ("one", "two", "three"):
        reply = await bot.ask(chat, ada, text)
        rating = Rating.DOWN if text == "three" else Rating.UP
        bot.store.feedback.rate(turn_id(reply), ada.id, rating, RatingSource.BUTTON)
    version = make_version(bot)
    bot.store.adapters.promote(version.name, base_model="fake", reason="a test")
    reply = await bot.ask(chat, ada, "four")
    bot.store.feedback.rate(turn_id(reply), ada.id, Rating.UP, RatingSource.BUTTON)

    shown = await stats(bot, office, grace)

    assert shown.text == f"base model: 67% 👍 of 3\n{version.name}: 100% 👍 of 1"
    image = picture(shown)
    for color in (GREEN, RED):
        assert amount(image, color) > amount(empty, color) + 100


async def test_a_rating_taken_back_is_not_counted(
    bot: RunningBot, office: Chat, chat: Chat, ada: User, grace: User
) -> None:
    reply = await bot.ask(chat, ada, "hello")
    await chat.tap(ada, reply.id, "👎")
    await chat.tap(ada, reply.id, "👍")
    await bot.settle()
    assert (await stats(bot, office, grace)).text == "base model: 100% 👍 of 1"

    await bot.tap(chat, ada, chat.message(reply.id), "✖")

    assert (await stats(bot, office, grace)).text == "Nobody has rated anything yet."


@pytest.mark.parametrize("steps", [1, 200])
async def test_the_picture_shows_training_curves(
    bot: RunningBot, office: Chat, grace: User, steps: int
) -> None:
    empty = picture(await stats(bot, office, grace))
    for number in range(1, 5):
        bot.store.runs.queue("a test")
        bot.store.runs.take()
        curve = [(step, 0.7 / step) for step in range(1, steps + 1)]
        bot.store.runs.report_metrics(number, curve=curve)
        bot.store.runs.finish(number, RunStatus.REJECTED, "So it ended.")

    image = picture(await stats(bot, office, grace))

    assert image.tobytes() != empty.tobytes()


async def test_without_matplotlib_the_figures_come_as_text(
    bot: RunningBot, office: Chat, grace: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    assert await bot.say(office, grace, "/stats") == (
        "Nobody has rated anything yet.\n\n"
        "I cannot draw charts: please install matplotlib (the extra `charts`)."
    )
