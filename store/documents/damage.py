"""Damaged files: the errors of the reading libraries, translated into ours."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from zipfile import BadZipFile

from bs4.exceptions import ParserRejectedMarkup
from docx.exceptions import PythonDocxError
from docx.opc.exceptions import OpcError
from pypdf.errors import PyPdfError

from store.errors import UnreadableDocument

# Readers of broken files fail in ways that their own error classes do not cover: a missing key, a
# number that is a string, a tree that is a loop. MemoryError is left out: it is not the file's.
FAULTS = (
    PyPdfError,
    OpcError,
    ParserRejectedMarkup,
    PythonDocxError,
    BadZipFile,
    zlib.error,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    SyntaxError,  # raised by lxml for errors in XML
    RuntimeError,  # RecursionError and NotImplementedError too
    TypeError,
    ValueError,
)


@contextmanager
def damage_named(name: str, kind: str) -> Iterator[None]:
    """Raise UnreadableDocument, naming the file, for any error of a reading library inside."""
    try:
        yield
    except FAULTS as error:
        raise UnreadableDocument(
            f"{name} cannot be read as {kind}: it is damaged or incomplete"
        ) from error
