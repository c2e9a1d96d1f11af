"""Links: a target is shown, only the web is linked, and no reply notifies anybody."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.telegram.links import LITERAL
from bot.telegram.render import Part, render
from loopback import BotApi, Chat, User
from store.domain import Passage
from tests.telegram.running import RunningBot


def covered(part: Part, type: str) -> list[str]:
    units = part.text.encode("utf-16-le")
    return [
        units[2 * each.offset : 2 * (each.offset + each.length)].decode("utf-16-le")
        for each in part.entities
        if each.type == type
    ]


def test_a_link_with_another_text_shows_its_target() -> None:
    [part] = render("Log in **[here, please](http://evil.example/?q=1)** now")
    assert part.text == "Log in here, please (http://evil.example/?q=1) now"
    assert covered(part, "bold") == ["here, please"]


@pytest.mark.parametrize("text", ["https://wiki.local/a", "wiki.local/a", "https://wiki.local/a/"])
def test_a_link_that_is_its_own_text_stays_as_it_is(text: str) -> None:
    [part] = render(f"[{text}](https://wiki.local/a)")
    assert part.text == text


@pytest.mark.parametrize(
    "markdown",
    [
        "[tap](tg://user?id=7)",
        "tg://resolve?domain=evil",
        "call @admin_of_all now",
        "[x](javascript:alert(1)) and file:///etc/passwd",
        "join t.me/evilgroup or https://t.me/evilgroup",
        "![picture](tg://sticker)",
        "-@durov_1 /@durov_1 .@durov_1 @@durov_1",
        "1https://t.me/x _https://t.me/x жhttps://t.me/x 1tg://resolve?domain=x",
        "www.t.me/x evil.t.me https://evil.t.me",
        "t.me/evil»`x`",
        "**bold** " * 100 + "@durov_1 t.me/evil",
        "http://[your-server]:8080 and http://[::1",
        "example.com/…t.me/evil https://example.com/\u200btg://x »@durov_1",
    ],
)
def test_what_is_no_web_page_cannot_be_tapped(markdown: str) -> None:
    [part] = render(markdown)
    assert not [each for each in part.entities if each.type in ("text_link", "text_mention")]
    literal = " ".join(covered(part, "code"))
    for found in re.findall(r"tg://\S+|@\w+|t\.me/\w+|\[your-server\]", part.text):
        assert found.rstrip(")") in literal


def test_a_mention_that_stands_in_a_document_may_be_repeated() -> None:
    passage = Passage(
        chunk_id=1, document_id=1, title="Help", section="", text="Ask @helpdesk_bot.", score=0.9
    )
    [part] = render("Ask @helpdesk_bot or @helpdesk or @somebody_else.", [passage])
    assert covered(part, "code") == ["@helpdesk", "@somebody_else"]


def test_only_hosts_that_are_allowed_are_linked() -> None:
    [part] = render(
        "https://a.wiki.local/x wiki.local https://wiki.local.evil.example https://other.example "
        "https://evil.example\\\\@wiki.local",
        link_hosts=("wiki.local",),
    )
    assert covered(part, "code") == [
        "https://wiki.local.evil.example",
        "https://other.example",
        "https://evil.example\\@wiki.local",
    ]


PIECES = (
    *(
        "[x](http://a.b/c)",
        "[y](tg://user?id=1)",
        "**b**",
        "`@code`",
        "@mention_x",
        " ",
        "\n",
        "😀",
    ),
    *("http://h.example/p?q=1", "_it_", "[http://a.b](http://c.d)", "```\n@in_pre\n```", "a.b.c/d"),
    *("# head", "> quote", "- list ", "[**bold** link](https://l.example)"),
)


@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_drawn_replies_have_valid_entities_and_no_hidden_target(markdown: str) -> None:
    for part in render(markdown):
        length = len(part.text.encode("utf-16-le")) // 2
        literal = [(e.offset, e.offset + e.length) for e in part.entities if e.type in LITERAL]
        for each in part.entities:
            assert each.type not in ("text_link", "text_mention")
            assert 0 <= each.offset < each.offset + each.length <= length
        for found in re.finditer(r"(?<!\w)@[A-Za-z]\w{3,}|tg://\S", part.text):
            start = len(part.text[: found.start()].encode("utf-16-le")) // 2
            assert any(a <= start < b for a, b in literal)


async def test_no_message_fetches_a_preview(
    bot: RunningBot, api: BotApi, chat: Chat, ada: User
) -> None:
    bot.engine.reply = lambda messages: "see http://evil.example/?q=secret"
    await bot.ask(chat, ada, "hello")
    for call in (*api.calls_to("sendMessage"), *api.calls_to("editMessageText")):
        assert call.params["link_preview_options"] == {"is_disabled": True}
