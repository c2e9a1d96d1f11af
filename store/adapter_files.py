"""The files of an adapter: copied so that they survive a power cut, and hashed."""

import hashlib
import os
import re
import shutil
from pathlib import Path

from store.errors import AdapterDamaged

FILES = ("adapter_config.json", "adapter_model.safetensors")
"""The files that an adapter consists of (PEFT's names), in the order of hashing."""

_NAME = re.compile(r"a\d{1,18}-[0-9a-f]{8}")

RECIPE_FILE = "recipe.json"
"""The recipe of an adapter, kept beside it where there is one."""


def copy_adapter(source: Path, folder: Path) -> None:
    """Copy the files of an adapter, so that they would survive a power cut."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        shutil.copyfile(source / file, folder / file)
    if (source / RECIPE_FILE).is_file():
        shutil.copyfile(source / RECIPE_FILE, folder / RECIPE_FILE)
    for written in (*folder.iterdir(), folder):
        flush(written)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_adapter(folder: Path) -> str:
    """Return the SHA-256 of an adapter's configuration and weights. Raises `AdapterDamaged`."""
    digest = hashlib.sha256()
    for name in FILES:
        try:
            digest.update((folder / name).read_bytes())
        except OSError as error:
            raise AdapterDamaged(f"the adapter in {folder} lacks {name}: {error}") from error
    return digest.hexdigest()


def folder_of(adapters: Path, name: str) -> Path:
    """Return the folder of a version's files. Raises `AdapterDamaged` for what is no name of one.

    Names come from rows and backups, which somebody may have changed: none leads out of the folder.
    """
    if _NAME.fullmatch(name) is None:
        raise AdapterDamaged(f"{name!r} is no name of a version: it was changed in the database")
    return adapters / name
