"""Uploads: an admin's files are read, and whatever is wrong with one is said."""

import io
import random
import zipfile

import pytest
from pypdf import PdfWriter

from loopback import BotApi, Chat, Fault, User, any_message, drop_before, server_error
from store.tables import DocumentRow
from tests.telegram.running import RunningBot, prompt_text

TEA = b"# Tea\n\nTea is served at four o'clock."

LIES = pytest.mark.bad_input("a file whose name lies about its type")
EMPTY = pytest.mark.bad_input("an empty file")


async def hand_in(bot: RunningBot, chat: Chat, user: User, name: str, data: bytes) -> str:
    """Send a file; return the bot's answer."""
    sent = await chat.send_document(user, name, data)
    answer = await chat.wait_reply(sent, timeout=3, final=any_message)
    await bot.settle()
    assert [each.text for each in chat.bot_messages if each.id > sent] == [answer.text]
    return answer.text


def encrypted_pdf() -> bytes:
    writer, stream = PdfWriter(), io.BytesIO()
    writer.add_blank_page(72, 72)
    writer.encrypt(user_password="secret", algorithm="RC4-128")
    writer.write(stream)
    return stream.getvalue()


def zip_bomb() -> bytes:
    """Return a Word document of 300 kB whose text unpacks to 300 MB."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        with archive.open("word/document.xml", "w") as member:
            for _ in range(300):
                member.write(bytes(1_000_000))
    return stream.getvalue()


async def test_an_admins_file_is_added_and_listed(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    assert (await hand_in(bot, office, grace, "tea.md", TEA)).startswith(
        "Added “Tea”, passages: 1."
    )

    assert "1. Tea (tea.md, passages: 1) – being read" in await bot.say(office, grace, "/documents")
    await bot.index()
    assert await bot.say(office, grace, "/documents") == "1. Tea (tea.md, passages: 1)"


async def test_what_an_admin_sent_is_found_in_answers(
    bot: RunningBot, office: Chat, chat: Chat, ada: User, grace: User
) -> None:
    await hand_in(bot, office, grace, "tea.md", TEA)
    await bot.index()

    reply = await bot.ask(chat, ada, "when is tea served?")

    assert "📎 Tea" in reply.text
    assert "four o'clock" in prompt_text(bot.engine.prompts[0])


async def test_a_removed_document_is_found_no_more(
    bot: RunningBot, office: Chat, chat: Chat, ada: User, grace: User
) -> None:
    await hand_in(bot, office, grace, "tea.md", TEA)
    await bot.index()

    assert await bot.say(office, grace, "/remove 1") == "Removed “Tea”."
    assert "I know no documents yet" in await bot.say(office, grace, "/documents")
    await bot.ask(chat, ada, "when is tea served?")
    assert "four o'clock" not in prompt_text(bot.engine.prompts[0])


@pytest.mark.parametrize("arguments", ["", " tea.md", " 1 2", " -1"])
async def test_removing_nothing_in_particular_says_how_to_do_it(
    bot: RunningBot, office: Chat, grace: User, arguments: str
) -> None:
    assert "Please give me a number" in await bot.say(office, grace, f"/remove{arguments}")


@pytest.mark.parametrize("number", ["7", "99999999999999999999"])
async def test_removing_what_is_not_there_says_so(
    bot: RunningBot, office: Chat, grace: User, number: str
) -> None:
    assert f"There is no document {number}" in await bot.say(office, grace, f"/remove {number}")


async def test_the_same_file_twice_is_one_document(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    await hand_in(bot, office, grace, "tea.md", TEA)

    assert "I already have “Tea”" in await hand_in(bot, office, grace, "again.md", TEA)
    assert bot.count(DocumentRow) == 1


async def test_a_changed_file_replaces_its_older_version(
    bot: RunningBot, office: Chat, chat: Chat, ada: User, grace: User
) -> None:
    await hand_in(bot, office, grace, "tea.md", TEA)
    await bot.index()

    told = await hand_in(bot, office, grace, "tea.md", TEA.replace(b"four", b"five"))
    await bot.index()

    assert "Replaced the older version of “Tea”" in told
    await bot.ask(chat, ada, "when is tea served?")
    prompt = prompt_text(bot.engine.prompts[0])
    assert ("five o'clock" in prompt, "four o'clock" in prompt) == (True, False)


async def test_a_file_of_somebody_who_is_no_admin_is_refused(
    bot: RunningBot, chat: Chat, ada: User
) -> None:
    assert "only from admins" in await hand_in(bot, chat, ada, "tea.md", TEA)
    assert bot.count(DocumentRow) == 0


async def test_a_file_that_an_admin_sends_to_a_group_is_refused(
    bot: RunningBot, group: Chat, grace: User
) -> None:
    sent = await group.send_document(grace, "tea.md", TEA, "@ratchet_bot read this")

    assert "in private" in (await group.wait_reply(sent, final=any_message)).text
    assert bot.count(DocumentRow) == 0


@pytest.mark.bad_input("a file of 25 MB")
async def test_a_file_too_large_for_telegram_is_not_asked_for(
    bot: RunningBot, api: BotApi, office: Chat, grace: User
) -> None:
    told = await hand_in(bot, office, grace, "big.txt", b"tea " * 6_250_000)

    assert "up to 20 MB" in told
    assert not api.calls_to("getFile")


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("tea.exe", b"MZ tea", "is a type of file that I cannot read"),
        ("tea", TEA, "is a type of file that I cannot read"),
        pytest.param("tea.pdf", TEA, "tea.pdf", marks=LIES),
        pytest.param("tea.docx", b"%PDF-1.7 not a document", "tea.docx", marks=LIES),
        pytest.param("tea.txt", b"PK\x03\x04" + bytes(range(256)), "tea.txt", marks=LIES),
        ("tea.pdf", b"%PDF-1.7\nbroken", "tea.pdf"),
        ("tea.json", b'{"tea": ', "tea.json"),
        pytest.param("tea.txt", b"", "is empty", marks=EMPTY),
        pytest.param("tea.md", b" \n\t ", "is empty", marks=EMPTY),
        ("tea.txt", random.Random(0).randbytes(5000), "tea.txt"),
    ],
)
async def test_a_file_that_cannot_be_read_is_named_with_the_reason(
    bot: RunningBot, office: Chat, grace: User, name: str, data: bytes, sentence: str
) -> None:
    told = await hand_in(bot, office, grace, name, data)

    assert sentence in told
    assert "error" not in told
    assert bot.count(DocumentRow) == 0


@pytest.mark.bad_input("an encrypted PDF")
async def test_an_encrypted_pdf_is_said_to_be_encrypted(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    told = await hand_in(bot, office, grace, "secret.pdf", encrypted_pdf())

    assert "secret.pdf" in told
    assert "password" in told or "encrypted" in told


@pytest.mark.bad_input("a zip bomb in a docx")
async def test_a_zip_bomb_is_refused(bot: RunningBot, office: Chat, grace: User) -> None:
    told = await hand_in(bot, office, grace, "bomb.docx", zip_bomb())

    assert "bomb.docx" in told
    assert bot.count(DocumentRow) == 0


@pytest.mark.bad_input("invalid UTF-8")
async def test_text_that_is_not_utf8_is_read_all_the_same(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    data = "Das Café öffnet täglich um acht Uhr, außer an Feiertagen.".encode("cp1252")

    assert (await hand_in(bot, office, grace, "cafe.txt", data)).startswith("Added “Cafe”")


async def test_the_bot_goes_on_after_a_bad_file(bot: RunningBot, office: Chat, grace: User) -> None:
    await hand_in(bot, office, grace, "broken.pdf", b"%PDF-1.7\nbroken")

    assert (await bot.ask(office, grace, "still there?")).text == "You said: still there?"
    assert (await hand_in(bot, office, grace, "tea.md", TEA)).startswith("Added")


async def test_documents_without_a_name_are_read_as_text_and_do_not_replace_each_other(
    bot: RunningBot, api: BotApi, office: Chat, grace: User
) -> None:
    for data in (b"Tea is served at four.", b"Cake is served at five."):
        stored = await office.send_document(grace, "lost.exe", data)
        attachment = office.message(stored).attachment
        assert attachment is not None
        message = office.json(office.add(grace, "", attachment=attachment))
        del message["document"]["file_name"]
        api.push({"message": message})
        answer = await office.wait_reply(message["message_id"], final=any_message)
        assert answer.text
    await bot.settle()

    assert bot.count(DocumentRow) == 2


@pytest.mark.parametrize("method", ["getFile", "download"])
@pytest.mark.parametrize("fault", [server_error(), drop_before()], ids=["502", "dropped"])
async def test_a_file_that_cannot_be_fetched_is_fetched_again_or_asked_for_again(
    bot: RunningBot, api: BotApi, office: Chat, grace: User, method: str, fault: Fault
) -> None:
    api.inject(method, fault)

    assert await hand_in(bot, office, grace, "tea.md", TEA)


async def test_a_long_list_of_documents_fits_into_a_message(
    bot: RunningBot, office: Chat, grace: User
) -> None:
    for number in range(100):
        bot.store.knowledge.add(
            f"{number} {'long name ' * 8}.txt", f"Text number {number}".encode(), added_by=grace.id
        )

    told = await bot.say(office, grace, "/documents")

    assert "more. On the server, ratchet knowledge list shows all." in told
    assert len(told) < 4096
