"""What the libraries that read files for us raise when a file is damaged, in our own words."""

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
# number that is a string, a tree that is a loop. MemoryError is left out: that is about us.
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
    SyntaxError,  # as lxml calls what is wrong with XML
    RuntimeError,  # RecursionError and NotImplementedError too
    TypeError,
    ValueError,
)


@contextmanager
def damage_named(name: str, kind: str) -> Iterator[None]:
    """Raise UnreadableDocument, naming the file, for whatever a reading library raises inside."""
    try:
        yield
    except FAULTS as error:
        raise UnreadableDocument(
            f"{name} cannot be read as {kind}: it is damaged, or was cut short on its way"
        ) from error
