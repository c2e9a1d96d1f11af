"""Files, good and bad, that tests of the parser read."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import docx
from pypdf import PdfWriter
from pypdf.generic import DictionaryObject, NameObject, StreamObject

TYPES, TEXT = "[Content_Types].xml", "word/document.xml"


def pdf_bytes(*pages: str, title: str = "", outline: tuple[tuple[str, int], ...] = ()) -> bytes:
    """Write a PDF with a line of Helvetica on each page."""
    writer = PdfWriter()
    font = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
    helvetica = DictionaryObject({NameObject(k): NameObject(v) for k, v in font.items()})
    fonts = DictionaryObject({NameObject("/F1"): helvetica})
    for text in pages:
        page = writer.add_blank_page(612, 792)
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = StreamObject()
        stream.set_data(f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode() if text else b"")
        page[NameObject("/Contents")] = writer._add_object(stream)
    if title:
        writer.add_metadata({"/Title": title})
    for entry, number in outline:
        writer.add_outline_item(title=entry, page_number=number)
    return written(writer)


def locked(data: bytes, password: str, algorithm: str = "RC4-128") -> bytes:
    writer = PdfWriter(clone_from=io.BytesIO(data))
    writer.encrypt(user_password=password, owner_password="owner", algorithm=algorithm)
    return written(writer)


def written(writer: PdfWriter) -> bytes:
    stream = io.BytesIO()
    writer.write(stream)
    return stream.getvalue()


def docx_bytes(fill: Callable[[Any], object], *, title: str = "") -> bytes:
    document = docx.Document()
    document.core_properties.title = title
    fill(document)
    stream = io.BytesIO()
    document.save(stream)
    return stream.getvalue()


def zip_bytes(*names: str, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name in names:
            archive.writestr(name, "<x/>")
    return stream.getvalue()


def bomb(size: int, *, declared: int | None = None) -> bytes:
    """Return a docx that unpacks to `size` zeros, and may declare another size."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(TYPES, "<Types/>")
        with archive.open(TEXT, "w") as member:
            for _ in range(size // 1_000_000):
                member.write(bytes(1_000_000))
        checksum = archive.getinfo(TEXT).CRC
    data = stream.getvalue()
    if declared is not None:
        data = data.replace(struct.pack("<L", size), struct.pack("<L", declared))
        forged = struct.pack("<L", zlib.crc32(bytes(declared)))
        data = data.replace(struct.pack("<L", checksum), forged)
    return data


def damaged(whole: bytes) -> list[bytes]:
    """Cut a file off, or spoil three bytes of it, at some forty places."""
    cuts = range(8, len(whole), len(whole) // 40)
    spoiled = [whole[:cut] + b"\xff<<" + whole[cut + 3 :] for cut in cuts]
    return [whole[:cut] for cut in cuts] + spoiled
