"""The errors of the store.

    StoreError
    ├── SettingsError             a setting that cannot be used
    ├── SchemaNotAtHead           the database needs `ratchet db upgrade`
    ├── DatabaseUnavailable       the database cannot be opened or reached
    ├── TurnNotFound              no such turn, or not one this chat may touch
    ├── AnswerChanged             an answer that is not the one that was shown
    ├── ExportTooSoon             another export within the hour
    ├── DocumentError
    │   ├── UnsupportedDocument   a type of file that cannot be read
    │   ├── UnreadableDocument    damaged, encrypted, or not what its name says
    │   ├── EmptyDocument         nothing in it to read
    │   ├── DocumentTooLarge      more than the limits allow, packed or unpacked
    │   └── DocumentNotFound      no such document
    ├── EmbedderNotFound          no sentence embedder under that name
    ├── IndexUnavailable          Chroma cannot be opened, reached or read
    ├── IndexInUse                another process has the embedded index open
    ├── RunNotFound               no such training run
    ├── BackupUnusable            a backup that cannot be made, or restored
    ├── PreferencesUnreadable     a preference file with an invalid line
    └── AdapterError
        ├── AdapterNotFound       no such adapter
        ├── AdapterDamaged        its files are not what its name says
        ├── AdapterNotFit         its status or its base model forbids what was asked
        └── NothingToRollBack     the base model is in use, and nothing was before it

Every message names the thing and says what to do about it, in one line.
"""

from datetime import timedelta


class StoreError(Exception):
    """Base of all errors that the store raises on purpose."""


class SettingsError(StoreError):
    """A setting that cannot be used."""


class SchemaNotAtHead(StoreError):
    """The database was made by another version of the schema."""

    def __init__(self, found: str | None, head: str) -> None:
        super().__init__(
            f"{f'the database schema is at {found}' if found else 'the database is empty'}, "
            f"this version needs {head}: run `ratchet db upgrade`"
        )


class DatabaseUnavailable(StoreError):
    """The database cannot be opened or reached."""


class TurnNotFound(StoreError):
    """The turn does not exist, or is not one that this chat may touch."""

    def __init__(self, turn_id: int) -> None:
        super().__init__(f"there is no turn {turn_id} here")


class AnswerChanged(StoreError):
    """The answer to be approved is not the one that the admin was shown."""

    def __init__(self, turn_id: int) -> None:
        super().__init__(f"The answer of turn {turn_id} has changed: look at it with /approve.")


class ExportTooSoon(StoreError):
    """Another export was asked for within the hour."""

    def __init__(self, wait: timedelta) -> None:
        minutes = max(1, round(wait.total_seconds() / 60))
        super().__init__(f"You had an export recently. Please try again in {minutes} minutes.")


class DocumentError(StoreError):
    """A document that cannot be added; the message may be shown to its sender."""


class UnsupportedDocument(DocumentError):
    """A type of file that cannot be read."""


class UnreadableDocument(DocumentError):
    """A file that is damaged, encrypted, or not what its name says."""


class EmptyDocument(DocumentError):
    """A file without text."""


class DocumentTooLarge(DocumentError):
    """A file above the limits, packed or unpacked."""


class DocumentNotFound(DocumentError):
    """The document does not exist."""

    def __init__(self, document_id: int) -> None:
        super().__init__(
            f"there is no document {document_id}: `ratchet knowledge list` or /documents shows them"
        )


class EmbedderNotFound(StoreError):
    """There is no sentence embedder of that name."""


class IndexUnavailable(StoreError):
    """Chroma cannot be opened, reached or read."""


class IndexInUse(StoreError):
    """Another process has the embedded index open; it is not safe to open it twice."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"the knowledge index in {path} is open in another process; "
            "leave the work to that one, or set RATCHET_CHROMA_URL to share a Chroma server"
        )


class RunNotFound(StoreError):
    """The training run does not exist."""

    def __init__(self, run_id: int) -> None:
        super().__init__(f"there is no run {run_id}: /runs or `ratchet status` shows them")


class BackupUnusable(StoreError):
    """A backup that cannot be made, or restored."""


class ImportNotFound(StoreError):
    """The import does not exist."""

    def __init__(self, import_id: int) -> None:
        super().__init__(f"there is no import {import_id}: `ratchet feedback imports` lists them")


class GoldenAnswerNotFound(StoreError):
    """The golden answer does not exist."""

    def __init__(self, golden_id: int) -> None:
        super().__init__(f"there is no golden answer {golden_id}: `ratchet golden list` lists them")


class PreferencesUnreadable(StoreError):
    """A preference file with an invalid line; nothing of it was imported."""


class AdapterError(StoreError):
    """An adapter that cannot be used."""


class AdapterNotFound(AdapterError):
    """The adapter does not exist."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no adapter {name}")


class AdapterDamaged(AdapterError):
    """The files of an adapter are not what its name says."""


class AdapterNotFit(AdapterError):
    """The status or base model of an adapter forbids what was asked."""


class NothingToRollBack(AdapterError):
    """The base model is in use, and nothing was before it."""

    def __init__(self) -> None:
        super().__init__("there is nothing to roll back: the base model is in use already")
