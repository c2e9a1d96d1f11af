"""The keys of backups: one signs their manifests, an age identity encrypts them.

The signing key lies in the data folder and is never in a backup, so that whoever can write to the
place where backups are kept can neither change one unseen nor make one up.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import IO

from store.errors import BackupUnusable

KEY_BYTES = 32


class SigningKey:
    """A key that signs manifests (HMAC with SHA-256)."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def read_or_make(cls, path: Path) -> "SigningKey":
        """Return the key in a file that only its owner can read; make it if it is not there."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_new(path, f"{secrets.token_hex(KEY_BYTES)}\n")
        return cls.read(path)

    @classmethod
    def read(cls, path: Path) -> "SigningKey":
        """Return the key in a file. Raises `BackupUnusable`."""
        if not path.exists():
            raise BackupUnusable(
                f"the key that signed the backup is not in {path}: name the backup.key of the "
                "installation that made it with --signing-key, or restore it --unsigned"
            )
        try:
            key = bytes.fromhex(path.read_text(encoding="ascii").strip())
        except (OSError, ValueError) as error:
            raise BackupUnusable(f"{path} is no key that signs backups: {error}") from None
        if len(key) != KEY_BYTES:
            raise BackupUnusable(f"{path} is no key that signs backups: it has the wrong length")
        return cls(key)

    def sign(self, content: bytes) -> str:
        """Return the signature of some content."""
        return hmac.new(self._key, content, hashlib.sha256).hexdigest()

    def matches(self, content: bytes, signature: str) -> bool:
        """Return whether a signature is that of some content by this key."""
        return hmac.compare_digest(self.sign(content).encode(), signature.encode())


class EncryptionKey:
    """An age identity (X25519), with which backups are encrypted and read again.

    `age --decrypt --identity FILE` reads them, too.
    """

    def __init__(self, text: str, path: Path) -> None:
        from pyrage import IdentityError, x25519  # only encrypted backups need it

        words = [line for line in text.splitlines() if line and not line.startswith("#")]
        try:
            self._identity = x25519.Identity.from_str("".join(words).strip())
        except IdentityError as error:
            raise BackupUnusable(f"{path} is no age identity: {error}") from None

    @classmethod
    def read(cls, path: Path) -> "EncryptionKey":
        """Return the identity in a file. Raises `BackupUnusable`."""
        try:
            return cls(path.read_text(encoding="utf-8"), path)
        except (OSError, ValueError) as error:
            raise BackupUnusable(f"{path} is no age identity: {error}") from None

    @classmethod
    def make(cls, path: Path) -> "EncryptionKey":
        """Write a new identity into a new file that only its owner can read."""
        from pyrage import x25519

        identity = x25519.Identity.generate()
        _write_new(path, f"# public key: {identity.to_public()}\n{identity}\n")
        return cls.read(path)

    def encrypt(self, source: IO[bytes], target: IO[bytes]) -> None:
        """Write what is read from `source`, encrypted, into `target`."""
        import pyrage

        pyrage.encrypt_io(source, target, [self._identity.to_public()])

    def decrypt(self, source: IO[bytes], target: IO[bytes]) -> None:
        """Write what is read from `source`, decrypted, into `target`. Raises `BackupUnusable`."""
        import pyrage

        try:
            pyrage.decrypt_io(source, target, [self._identity])
        except pyrage.DecryptError as error:
            raise BackupUnusable(
                f"the backup cannot be decrypted with this key, or was changed: {error}"
            ) from None


def _write_new(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:  # another process made it in the same moment
        return
    except OSError as error:
        raise BackupUnusable(f"the key {path} cannot be written: {error}") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
