"""A model's tokenizer, chat template and limits, without its weights.

Enough for an engine whose model runs on another machine.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import transformers
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from bot.engine.errors import ModelNotFound, ModelUnusable
from bot.engine.source import model_name, model_source
from bot.engine.template import ChatTemplate

ASSUMED_CONTEXT_TOKENS = 2048
"""Context of a model whose configuration does not state one."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A model's tokenizer, chat template and limits."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    template: ChatTemplate
    context_tokens: int
    end_tokens: frozenset[int]
    """Ids that end a reply: the model's own, and the template's end of a message."""


def load_vocabulary(model: str, *, models_folder: Path) -> Vocabulary:
    """Load it for `starter`, a folder, or a Hugging Face id.

    Raises `ModelNotFound` or `ModelUnusable`.
    """
    _silence_transformers()
    name = model_name(model)
    with translate_load_errors(name):
        source = model_source(model, models_folder, weights=False)
        config = AutoConfig.from_pretrained(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
        template = ChatTemplate(tokenizer, model=name)
        return Vocabulary(
            name=name,
            tokenizer=tokenizer,
            template=template,
            context_tokens=getattr(config, "max_position_embeddings", None)
            or ASSUMED_CONTEXT_TOKENS,
            end_tokens=_end_tokens(source, config, tokenizer, template),
        )


@contextmanager
def translate_load_errors(name: str) -> Iterator[None]:
    """Translate the errors of transformers for a model that cannot be loaded into ours."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        text = str(error).strip()
        reason = text.splitlines()[0] if text else type(error).__name__
        if isinstance(error, OSError):
            raise ModelNotFound(
                f"cannot load the model {name}: {reason}; check RATCHET_MODEL"
            ) from error
        raise ModelUnusable(
            f"{name} is no causal language model that can be served: {reason}; check RATCHET_MODEL"
        ) from error


def _end_tokens(
    source: Path,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    template: ChatTemplate,
) -> frozenset[int]:
    try:
        generation = GenerationConfig.from_pretrained(source)
    except OSError:  # the model has no generation config
        generation = GenerationConfig.from_model_config(config)
    configured = generation.eos_token_id
    ids = configured if isinstance(configured, list) else [configured, tokenizer.eos_token_id]
    return frozenset(each for each in (*ids, template.end_token) if isinstance(each, int))


def _silence_transformers() -> None:
    # In a terminal, progress bars and advice of the library would be mixed into the conversation.
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
