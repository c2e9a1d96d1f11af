"""The place of a model's files: the embedded model, a folder, or a Hugging Face id."""

from pathlib import Path

from bot.engine.errors import ModelNotFound
from bot.engine.starter import MODEL_NAME, starter_folder


def model_name(model: str) -> str:
    """Return the base model's name for `RATCHET_MODEL`; adapters are kept under that name."""
    return MODEL_NAME if model == "starter" else model


def model_source(model: str, models_folder: Path) -> Path | str:
    """Return a folder, or an id for the Hub; converts the embedded model if need be.

    Raises `ModelNotFound`, or `ModelUnusable` for an embedded model whose file is not as expected.
    """
    return starter_folder(models_folder) if model == "starter" else named_source(model)


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
