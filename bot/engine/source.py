"""Where a model's files are: the embedded one, a folder, or a Hugging Face id."""

from pathlib import Path

from bot.engine.errors import ModelNotFound
from bot.engine.starter import MODEL_NAME, starter_folder


def model_name(model: str) -> str:
    """What the base model of `RATCHET_MODEL` is called; adapters are kept under that name."""
    return MODEL_NAME if model == "starter" else model


def model_source(model: str, models_folder: Path) -> Path | str:
    """A folder, or an id for the Hub; the embedded model is converted if need be.

    Raises `ModelNotFound`, or `ModelUnusable` for an embedded model that is not what it should be.
    """
    return starter_folder(models_folder) if model == "starter" else named_source(model)


def named_source(model: str) -> Path | str:
    """The same for a model that is named. Raises `ModelNotFound`."""
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFound(f"{model} holds no config.json: it is no model in the Hub's layout")
        return path
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise ModelNotFound(f"there is no folder {model}: check RATCHET_MODEL")
    return model
