"""File types, told by a file's first bytes, whatever its name says."""

from store.errors import UnreadableDocument

_PDF = "a PDF"
_ZIP = "a ZIP archive"
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", _PDF),
    (b"PK\x03\x04", _ZIP),
    (b"PK\x05\x06", _ZIP),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old or password-protected Office file"),
    (b"{\\rtf", "an RTF document"),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF87a", "a GIF picture"),
    (b"GIF89a", "a GIF picture"),
    (b"II*\x00", "a TIFF picture"),
    (b"MM\x00*", "a TIFF picture"),
    (b"\x7fELF", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"SQLite format 3\x00", "a SQLite database"),
    (b"OggS\x00", "an Ogg recording"),
    (b"fLaC\x00", "a FLAC recording"),
)
_PDF_SEARCH_BYTES = 1024  # readers accept a PDF whose mark stands this far from the start


def check_contents(name: str, suffix: str, data: bytes) -> None:
    """Raise UnreadableDocument when the contents are of another type than the suffix says."""
    found = _kind(data)
    if suffix == ".pdf":
        fits = b"%PDF-" in data[:_PDF_SEARCH_BYTES]
        expected = _PDF
    elif suffix == ".docx":
        fits = found == _ZIP
        expected = "a Word document"
    else:
        fits = found is None
        expected = "text"
    if not fits:
        what = f"is {found} by its contents, not {expected}" if found else f"is not {expected}"
        raise UnreadableDocument(f"{name} {what}: send it under its right name, or another copy")


def _kind(data: bytes) -> str | None:
    for signature, kind in _SIGNATURES:
        if data.startswith(signature):
            return kind
    if data[:4] == b"RIFF" and data[8:12] in (b"WAVE", b"WEBP", b"AVI "):
        return "a RIFF picture or recording"
    if data[4:8] == b"ftyp":
        return "a video or recording"
    return None
