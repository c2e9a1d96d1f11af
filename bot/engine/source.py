"""The place of a model's files: the embedded model, a folder, or a Hugging Face id.

An id may end with `@` and a revision, best a commit: then the files are always the same. Of a Hub's
model only safetensors and texts are fetched: no file that could run code when it is read.
"""

from pathlib import Path

from bot.engine.errors import ModelNotFound
from bot.engine.starter import MODEL_NAME, starter_folder

TEXTS = ("*.json", "*.jinja", "*.model", "*.txt")
WEIGHTS = "*.safetensors"
"""Patterns of the files that are fetched from the Hub."""


def model_name(model: str) -> str:
    """Return the base model's name for `RATCHET_MODEL`; adapters are kept under that name."""
    return MODEL_NAME if model == "starter" else model


def model_source(model: str, models_folder: Path, *, weights: bool = True) -> Path:
    """Return the folder with a model's files; fetch or convert it first if need be.

    Without `weights`, those of the Hub's models are not fetched. Raises `ModelNotFound`, or
    `ModelUnusable` for an embedded model whose file is not as expected; `OSError` if the Hub cannot
    be reached or does not know the model.
    """
    if model == "starter":
        return starter_folder(models_folder)
    source = named_source(model)
    if isinstance(source, Path):
        return source
    from huggingface_hub import snapshot_download

    name, revision = hub_id(source)
    patterns = [*TEXTS, WEIGHTS] if weights else list(TEXTS)
    return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))


def hub_id(model: str) -> tuple[str, str | None]:
    """Return an id of the Hub, and the revision behind its `@`; None if it names none."""
    name, _, revision = model.partition("@")
    return name, revision or None


def named_source(model: str) -> Path | str:
    """Return a folder, or an id for the Hub, for any other model. Raises `ModelNotFound`."""
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFound(
                f"{model} has no config.json, so it is not a model in the Hub's layout: "
                "check RATCHET_MODEL"
            )
        return path
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise ModelNotFound(f"there is no folder {model}: check RATCHET_MODEL")
    return model
