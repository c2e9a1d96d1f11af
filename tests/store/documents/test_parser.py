"""Files as people send them, good and bad; `files.py` builds them."""

import contextlib
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.documents import parser
from store.documents.parser import ParsedDocument, Section, parse
from store.documents.readers import pdf, word
from store.errors import (
    DocumentError,
    DocumentTooLarge,
    EmptyDocument,
    UnreadableDocument,
    UnsupportedDocument,
)
from tests.store.files import TEXT, TYPES, bomb, damaged, docx_bytes, locked, pdf_bytes, zip_bytes


def texts(document: ParsedDocument) -> dict[str, str]:
    return {section.heading: section.text for section in document.sections}


def test_plain_text_is_one_section_under_the_name_made_readable() -> None:
    document = parse("inbox/leave_policy%20v2-final.txt", b"One.\r\n\r\nTwo.\r\n")
    assert document.title == "Leave policy v2 final"
    assert document.media_type == "text/plain"
    assert document.sections == (Section(heading="", text="One.\n\nTwo."),)


def test_markdown_is_cut_along_both_kinds_of_heading() -> None:
    data = b"before\n\n# Guide #\nintro\n\nSetup\n-----\n* one\n\n### Deep\nx\n# Other\ny\n"
    document = parse("guide.md", data)
    assert document.title == "Guide"
    assert texts(document) == {
        "": "before",
        "Guide": "intro",
        "Guide › Setup": "* one",
        "Guide › Setup › Deep": "x",
        "Other": "y",
    }


@pytest.mark.parametrize("fence", ["```", "~~~~", "> ```", "- ```"])
def test_a_hash_in_a_code_fence_is_no_heading(fence: str) -> None:
    data = f"# Real\n\n{fence}sh\n# comment\n{fence.strip('-')}\n\n## Next\nx".encode()
    assert list(texts(parse("a.md", data))) == ["Real", "Real › Next"]


def test_front_matter_gives_the_title_and_no_heading() -> None:
    document = parse("a.md", b'---\ntitle: "The Rules"\ntags: x\n---\nText\n')
    assert document.title == "The Rules"
    assert [section.heading for section in document.sections] == [""]


def test_a_rule_under_a_list_is_no_heading() -> None:
    assert list(texts(parse("a.md", b"- item\ncontinued\n---\ntext"))) == [""]


def test_html_keeps_headings_lists_and_tables_and_drops_what_is_not_content() -> None:
    data = b"""<html><head><title>Shop | Home</title><style>p{}</style></head><body>
    <nav>menu</nav><h1>Opening <b>hours</b></h1><p>We are\n open<br>daily &amp; late.</p>
    <ul><li>Mon<ul><li>nine</li></ul></li><li><p>Tue</p></li></ul><h2>Prices</h2>
    <table><tr><th>What</th><th>EUR</th></tr><tr><td><p>Tea</p></td><td>2</td></tr></table>
    <pre>a\n  b</pre><script>bad()</script><!-- hidden --></body></html>"""
    document = parse("index.htm", data)
    assert document.title == "Opening hours"
    assert texts(document) == {
        "Opening hours": "We are open\ndaily & late.\n\n- Mon\n- nine\n- Tue",
        "Opening hours › Prices": "| What | EUR |\n| Tea | 2 |\n\na\n  b",
    }


def test_html_is_decoded_as_the_page_declares() -> None:
    page = '<?xml version="1.0"?><meta charset="windows-1251"><p>Привет</p>'
    assert parse("a.html", page.encode("cp1251")).sections[0].text == "Привет"


@pytest.mark.parametrize("data", [b"<div>" * 50_000 + b"deep", b"http://example.com/deep.html"])
def test_html_that_nests_without_end_or_has_no_tags_is_read(data: bytes) -> None:
    assert "deep" in parse("a.html", data).sections[0].text


def test_html_with_too_many_tags_for_memory_is_too_large() -> None:
    with pytest.raises(DocumentTooLarge, match="HTML tags"):
        parse("a.html", b"<p>" * 1_000_000)


def test_docx_gives_headings_paragraphs_and_tables_in_their_order() -> None:
    def fill(document: Any) -> None:
        document.add_heading("Handbook", level=0)
        document.add_paragraph("Welcome.")
        document.add_heading("Leave", level=1)
        table = document.add_table(rows=2, cols=2)
        for cell, text in zip(table._cells, ("Kind", "Days", "Sick", "10"), strict=True):
            cell.text = text
        document.add_paragraph("After\tthe table.")

    document = parse("h.docx", docx_bytes(fill))
    assert document.title == "Handbook"
    assert texts(document) == {
        "Handbook": "Welcome.",
        "Handbook › Leave": "| Kind | Days |\n| Sick | 10 |\n\nAfter\tthe table.",
    }


def test_docx_is_called_by_its_title_property_when_it_has_no_heading() -> None:
    data = docx_bytes(lambda document: document.add_paragraph("Text."), title="Minutes of May")
    assert parse("x.docx", data).title == "Minutes of May"


def test_pdf_gives_a_section_a_page_and_the_title_of_its_metadata() -> None:
    document = parse("a.pdf", pdf_bytes("First page.", "Second page.", title="Annual report"))
    assert document.title == "Annual report"
    assert texts(document) == {"page 1": "First page.", "page 2": "Second page."}


def test_pdf_with_an_outline_gives_its_chapters() -> None:
    data = pdf_bytes("Cover", "a", "b", "c", outline=(("One", 1), ("Two", 3)))
    assert texts(parse("a.pdf", data)) == {"page 1": "Cover", "One": "a\n\nb", "Two": "c"}


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-128", "AES-256"])
def test_pdf_that_only_restricts_printing_is_read(algorithm: str) -> None:
    document = parse("a.pdf", locked(pdf_bytes("Open to read."), "", algorithm))
    assert document.sections[0].text == "Open to read."


def test_pdf_that_asks_for_a_password_says_so() -> None:
    with pytest.raises(UnreadableDocument, match=r"secret\.pdf is locked with a password"):
        parse("secret.pdf", locked(pdf_bytes("x"), password="hunter2"))


def test_pdf_without_text_is_said_to_be_a_scan() -> None:
    with pytest.raises(EmptyDocument, match="seems to be a scan"):
        parse("a.pdf", pdf_bytes("", ""))


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [("MAX_PAGES", 2, "3 pages"), ("MAX_READING_SECONDS", -1, "takes")],
)
def test_pdf_past_its_limits_is_too_large(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int, reason: str
) -> None:
    monkeypatch.setattr(pdf, limit, value)
    with pytest.raises(DocumentTooLarge, match=reason):
        parse("a.pdf", pdf_bytes("a", "b", "c"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_rows_stand_by_themselves(delimiter: str) -> None:
    rows = [["Name", "Note"], ["Ada", '"first, or\nso"'], [], ["Bob", "x", "more"], ["Eve"]]
    data = "\n".join(delimiter.join(row) for row in rows).encode()
    assert parse("people.csv", data).sections[0].text.split("\n\n") == [
        "Name: Ada; Note: first, or so",
        "Name: Bob; Note: x; Column 3: more",
        "Name: Eve",
    ]


def test_csv_of_a_header_alone_is_that_line() -> None:
    assert parse("a.csv", b"Name,Price\n").sections[0].text == "Name; Price"


def test_csv_with_a_quote_that_never_ends_is_unreadable() -> None:
    with pytest.raises(UnreadableDocument, match=r"a\.csv cannot be read as CSV at line"):
        parse("a.csv", b'a,b\n"' + b"x,y\n" * 100_000)


def test_json_becomes_paths_and_values_with_a_paragraph_an_object() -> None:
    value = {
        "shop": {"name": "Tea", "open": True, "none": None},
        "items": [{"n": "Assam", "tags": ["a", 2.50]}, {"n": "Oolong"}],
        "last": 1,
    }
    assert parse("a.json", json.dumps(value).encode()).sections[0].text == (
        "shop.name: Tea\nshop.open: true\n\nitems.n: Assam\nitems.tags: a, 2.5\n\n"
        "items.n: Oolong\n\nlast: 1"
    )


def test_json_that_nests_too_deeply_is_unreadable() -> None:
    with pytest.raises(UnreadableDocument, match="nests too deeply"):
        parse("a.json", b"[" * 100_000 + b"]" * 100_000)


def test_json_that_is_broken_is_told_where() -> None:
    with pytest.raises(UnreadableDocument, match=r"a\.json is not valid JSON: .* line 2, column 4"):
        parse("a.json", b'{\n"a"}')


def test_json_cannot_repeat_a_path_past_the_limit_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.documents.draft.MAX_TEXT", 10_000)
    with pytest.raises(DocumentTooLarge, match="10,000 characters"):
        parse("a.json", json.dumps({"k" * 200: dict.fromkeys(map(str, range(500)), 1)}).encode())


def test_jsonl_gives_a_paragraph_a_line() -> None:
    text = parse("a.jsonl", b'{"q": "a", "l": [{"x": 1}, {"x": 2}]}\n\n"b"\n').sections[0].text
    assert text == "q: a\nl.x: 1\nl.x: 2\n\nb"


def test_a_bad_line_of_jsonl_is_named_by_number() -> None:
    with pytest.raises(UnreadableDocument, match=r"line 3 of a\.jsonl is not valid JSON"):
        parse("a.jsonl", b'{"a": 1}\n\n{"a": }\n')


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_text_is_read_in_the_encodings_that_people_use(encoding: str) -> None:
    data = "Résumé: élève déçu à Noël".encode(encoding)
    assert parse("a.txt", data).sections[0].text == "Résumé: élève déçu à Noël"


def test_older_cyrillic_text_is_not_taken_for_western() -> None:
    text = "Привет, как дела? Это обычный русский текст."
    for encoding in ("cp1251", "koi8-r"):
        assert parse("a.txt", text.encode(encoding)).sections[0].text == text


@pytest.mark.bad_input("invalid UTF-8")
def test_a_bad_byte_in_utf8_costs_that_byte_and_not_the_alphabet() -> None:
    text = parse("a.txt", "Привет мир. ".encode() * 20 + b"\xff end").sections[0].text
    assert text.startswith("Привет мир.")
    assert text.endswith("\ufffd end")


@pytest.mark.parametrize("data", [b"a\0b\0c", bytes(range(1, 256)) * 4, b"\xff\xfe" + bytes(9)])
def test_binary_data_is_not_text(data: bytes) -> None:
    with pytest.raises(UnreadableDocument, match=r"a\.txt is not text"):
        parse("a.txt", data)


def test_text_comes_out_clean() -> None:
    data = json.dumps(["e\x01\u0301\r\nb\x0cc\td \ufeff\ud800!"]).encode()
    assert parse("a.json", data).sections[0].text == "é\nb\nc\td !"


@pytest.mark.bad_input("an empty file")
@pytest.mark.parametrize("suffix", sorted(parser.SUFFIXES))
@pytest.mark.parametrize("data", [b"", b" \n\t \r\n"])
def test_a_file_with_nothing_in_it_is_empty(suffix: str, data: bytes) -> None:
    with pytest.raises(EmptyDocument, match="is empty"):
        parse("a" + suffix, data)


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.txt", "\ufeff \n".encode()), ("a.json", b"[null]"), ("a.md", b"# Only"), ("a.csv", b",,")],
)
def test_a_file_without_any_text_is_empty(name: str, data: bytes) -> None:
    with pytest.raises(EmptyDocument, match="no text"):
        parse(name, data)


@pytest.mark.parametrize("name", ["a.exe", "a", ".pdf", "a.doc", "a.txt.zip"])
def test_other_types_are_unsupported_and_the_message_lists_what_is_not(name: str) -> None:
    with pytest.raises(UnsupportedDocument, match=r"send \.csv, \.docx"):
        parse(name, b"x")


@pytest.mark.bad_input("a file whose name lies about its type")
@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("notes.txt", b"%PDF-1.7 x", "notes.txt is a PDF by its contents"),
        ("notes.pdf", b"PK\x03\x04x", "notes.pdf is a ZIP archive"),
        ("notes.pdf", b"Dear all", "notes.pdf is not a PDF"),
        ("notes.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old or password-protected Office"),
        ("notes.docx", zip_bytes("a.txt"), "notes.docx is a ZIP archive by its contents"),
        ("notes.md", b"\x89PNG\r\n\x1a\n", "a PNG picture"),
        ("notes.csv", b"\x1f\x8b\x08", "a gzip archive"),
        ("notes.json", b"\x7fELF", "a program"),
        ("notes.html", b"RIFF\0\0\0\0WEBP", "a RIFF picture"),
    ],
)
def test_a_name_that_lies_about_its_type_is_told_so(name: str, data: bytes, what: str) -> None:
    with pytest.raises(UnreadableDocument, match=what):
        parse(name, data)


def test_too_many_bytes_or_characters_are_too_large() -> None:
    with pytest.raises(DocumentTooLarge, match="has 26 MB"):
        parse("a.txt", b"x" * 26_000_000)
    with pytest.raises(DocumentTooLarge, match="5,000,000 characters"):
        parse("a.txt", b"x" * 5_000_001)


def test_a_zip_bomb_is_told_by_what_it_declares() -> None:
    with pytest.raises(DocumentTooLarge, match="unpacks to more"):
        parse("a.docx", bomb(300_000_000))


@pytest.mark.bad_input("a zip bomb in a docx")
def test_a_zip_bomb_that_hides_its_size_is_never_unpacked() -> None:
    data = bomb(300_000_000, declared=100_000)
    tracemalloc.start()
    with pytest.raises(UnreadableDocument, match="cannot be read as a Word document"):
        parse("a.docx", data)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_a_zip_of_too_much_xml_or_too_many_files_is_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(DocumentTooLarge):
        parse("a.docx", bomb(40_000_000))
    monkeypatch.setattr(word, "MAX_MEMBERS", 3)
    with pytest.raises(DocumentTooLarge):
        parse("a.docx", zip_bytes(TYPES, TEXT, "word/a.png", "word/b.png"))


@pytest.mark.parametrize("data", [zip_bytes(TYPES, TEXT), zip_bytes(TYPES, TEXT, method=12)])
def test_an_archive_that_is_no_docx_is_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadableDocument, match=r"^a\.docx "):
        parse("a.docx", data)


@pytest.mark.parametrize("name", ["a.pdf", "a.docx"])
def test_damaged_files_give_text_or_one_of_our_errors_and_leak_nothing(
    name: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    whole = pdf_bytes("Some text.", outline=(("One", 0),))
    if name == "a.docx":
        whole = docx_bytes(lambda document: document.add_paragraph("Some text."))
    for data in damaged(whole):
        with contextlib.suppress(DocumentError):
            assert parse(name, data).sections
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


@settings(max_examples=60, deadline=None)
@given(suffix=st.sampled_from(sorted(parser.SUFFIXES - {".pdf", ".docx"})), data=st.binary())
def test_any_bytes_give_a_document_or_one_of_our_errors(suffix: str, data: bytes) -> None:
    try:
        document = parse("a" + suffix, data)
    except DocumentError:
        return
    assert document.title
    assert all(s.text.strip() and "\0" not in s.text for s in document.sections)
