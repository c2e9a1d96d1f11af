"""Word documents (docx): heading styles make sections; paragraphs and tables in their order.

A docx is a ZIP of XML, and a ZIP may unpack to a thousand times its size while declaring any size
it likes. So python-docx never opens what was sent: it gets a copy that holds the XML alone,
unpacked within `MAX_UNPACKED_BYTES`. Pictures and embedded files carry no text and are not
unpacked at all.
"""

import io
import re
import zipfile
from collections.abc import Iterator

import docx
from docx.document import Document
from docx.oxml.ns import qn
from docx.oxml.xmlchemy import BaseOxmlElement
from docx.styles.style import BaseStyle, ParagraphStyle

from store.documents.damage import damage_named
from store.documents.draft import Draft
from store.errors import DocumentTooLarge, UnreadableDocument

MAX_UNPACKED_BYTES = 200_000_000
"""Sum of the sizes that the archive's members may declare: pictures do unpack, but not to eight
times the input limit. More is a ZIP bomb or not a document."""

MAX_XML_BYTES = 32_000_000
"""Bytes of XML that are unpacked, the text of some thousands of pages. A tree of XML takes up to
thirty times its bytes in memory."""

MAX_MEMBERS = 10_000
"""Files in the archive; a document has tens, one for each picture and some for the rest."""

_CENTRAL_ENTRY = b"PK\x01\x02"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # all that Office writes
_XML_SUFFIXES = (".xml", ".rels")
_READ_BYTES = 1 << 16
_HEADING_STYLE = re.compile(r"heading ([1-9])$", re.I)
_MAX_STYLE_DEPTH = 10  # styles based on styles; in a damaged file they form a ring
_NO_PLACEHOLDER = re.compile(r"(?:document\d*|word document|untitled.*|microsoft word\b.*)$", re.I)

_PARAGRAPH, _TABLE, _ROW, _CELL = qn("w:p"), qn("w:tbl"), qn("w:tr"), qn("w:tc")
_STYLE, _VALUE = f"{qn('w:pPr')}/{qn('w:pStyle')}", qn("w:val")
_OUTLINE = f"{qn('w:pPr')}/{qn('w:outlineLvl')}"
_CHARACTERS = {qn("w:tab"): "\t", qn("w:br"): "\n", qn("w:cr"): "\n", qn("w:noBreakHyphen"): "-"}
_SILENT = frozenset(  # properties, and the second copy of a text box that old versions of Word read
    (
        *(qn("w:pPr"), qn("w:rPr"), qn("w:tblPr"), qn("w:trPr"), qn("w:tcPr"), qn("w:sdtPr")),
        "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback",
    )
)


def read_docx(draft: Draft, data: bytes) -> None:
    """Read a Word document."""
    with damage_named(draft.name, "a Word document"):
        document = docx.Document(io.BytesIO(_repacked(draft.name, data)))
        levels = _heading_levels(document)
        for block in _blocks(document.element.body):
            if block.tag == _TABLE:
                _read_table(draft, block)
            else:
                _read_paragraph(draft, block, levels)
        title = document.core_properties.title
        if not _NO_PLACEHOLDER.match(title):
            draft.suggest_title(title)


def _repacked(name: str, data: bytes) -> bytes:
    """Return an uncompressed archive of the document's XML alone, unpacked within the limits."""
    # Counted before zipfile makes an object of each.
    if data.count(_CENTRAL_ENTRY) > MAX_MEMBERS:
        raise _too_large(name)
    packed = zipfile.ZipFile(io.BytesIO(data))
    members = packed.infolist()
    _check_members(name, members)
    plain = io.BytesIO()
    room = MAX_XML_BYTES
    with zipfile.ZipFile(plain, "w") as copy:
        for member in members:
            content = b""
            if member.filename.lower().endswith(_XML_SUFFIXES):
                content = _unpack(name, packed, member, room)
                room -= len(content)
            copy.writestr(member.filename, content)
    return plain.getvalue()


def _check_members(name: str, members: list[zipfile.ZipInfo]) -> None:
    names = {member.filename for member in members}
    if "[Content_Types].xml" not in names or not any(n.startswith("word/") for n in names):
        raise UnreadableDocument(f"{name} is a ZIP archive by its contents, not a Word document")
    if len(names) != len(members) or any(m.compress_type not in _METHODS for m in members):
        raise UnreadableDocument(f"{name} is not an archive that Word writes: save it again")
    if any(member.flag_bits & 1 for member in members):
        raise UnreadableDocument(f"{name} is locked with a password: send a copy without one")
    if sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
        raise _too_large(name)


def _unpack(name: str, packed: zipfile.ZipFile, member: zipfile.ZipInfo, room: int) -> bytes:
    """Unpack one member in small reads; one large read would unpack it before it is counted."""
    content = bytearray()
    with packed.open(member) as stream:
        while block := stream.read(_READ_BYTES):
            content += block
            if len(content) > room:
                raise _too_large(name)
    return bytes(content)


def _too_large(name: str) -> DocumentTooLarge:
    return DocumentTooLarge(
        f"{name} unpacks to more than a document of this kind should: split it up, "
        "or save it without its pictures"
    )


def _heading_levels(document: Document) -> dict[str, int]:
    """Map style ids to heading levels, the title style's being 0."""
    levels = {}
    for style in document.styles:
        level = _style_level(style)
        if level is not None and style.style_id is not None:
            levels[style.style_id] = level
    return levels


def _style_level(style: BaseStyle) -> int | None:
    base: BaseStyle | None = style
    for _ in range(_MAX_STYLE_DEPTH):
        if not isinstance(base, ParagraphStyle):
            return None
        # Built-in names are English in the file, whatever language Word speaks.
        if match := _HEADING_STYLE.match(base.name or ""):
            return int(match[1])
        if (base.name or "").lower() == "title":
            return 0
        base = base.base_style
    return None


def _blocks(parent: BaseOxmlElement) -> Iterator[BaseOxmlElement]:
    """Yield paragraphs and tables in order, out of content controls and tracked changes too."""
    for child in parent:
        if child.tag in (_PARAGRAPH, _TABLE):
            yield child
        elif child.tag not in _SILENT:
            yield from _blocks(child)


def _read_paragraph(draft: Draft, paragraph: BaseOxmlElement, levels: dict[str, int]) -> None:
    text = _text(paragraph).strip()
    level = _paragraph_level(paragraph, levels)
    if not text:
        return
    if level is None:
        draft.paragraph(text)
    else:
        draft.heading(level, text)


def _paragraph_level(paragraph: BaseOxmlElement, levels: dict[str, int]) -> int | None:
    style = paragraph.find(_STYLE)
    if style is not None and style.get(_VALUE) in levels:
        return levels[style.get(_VALUE, "")]
    outline = paragraph.find(_OUTLINE)
    value = outline.get(_VALUE, "") if outline is not None else ""
    # Ten values, 0 to 9; the last means body text.
    return int(value) + 1 if value in tuple("012345678") else None


def _read_table(draft: Draft, table: BaseOxmlElement) -> None:
    """Write a line for each row; a table within a cell is part of the cell's text."""
    draft.gap()
    for row in table.iter(_ROW):
        if next(row.iterancestors(_TABLE)) is not table:
            continue
        cells = [" ".join(_text(cell).split()) for cell in row.iterchildren(_CELL)]
        if any(cells):
            draft.line("| " + " | ".join(cells) + " |")
    draft.gap()


def _text(element: BaseOxmlElement) -> str:
    """Return the text within an element; libxml2 bounds how deep it can nest."""
    if element.tag == qn("w:t"):
        return element.text or ""
    parts = []
    for child in element:
        if child.tag in _CHARACTERS:
            parts.append(_CHARACTERS[child.tag])
        elif child.tag not in _SILENT:
            parts.append(_text(child))
            if child.tag == _PARAGRAPH:  # one of a cell, or of a text box
                parts.append("\n")
    return "".join(parts)
