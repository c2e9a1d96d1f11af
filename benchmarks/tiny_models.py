"""Very small models with random weights, in the Hub's layout, for tests of the real engine."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
GROUPED = {"intermediate_size": 64, "num_key_value_heads": 2}
ARCHITECTURES: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": partial(LlamaConfig, **GROUPED, tie_word_embeddings=True),
    "qwen2": partial(Qwen2Config, **GROUPED),
    "qwen3": partial(Qwen3Config, **GROUPED, head_dim=8),
    "gemma3": partial(Gemma3TextConfig, **GROUPED, head_dim=8, sliding_window=16),
    "mistral": partial(MistralConfig, **GROUPED, sliding_window=None),
    "mistral with a window": partial(MistralConfig, **GROUPED, sliding_window=16),
    "phi": partial(PhiConfig, intermediate_size=64),
    "phi3": partial(Phi3Config, **GROUPED),
    "gpt2": GPT2Config,
    "gpt-neo": partial(GPTNeoConfig, attention_types=[[["global", "local"], 1]], window_size=16),
}
"""Small configurations of the supported architectures."""

CORPUS = ("What is the capital of France? The capital of France is Paris. system user assistant",)


def make_tiny_tokenizer(
    *, chat_template: str | None = CHAT_TEMPLATE, corpus: Sequence[str] = CORPUS
) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer that can spell any text, with ChatML's control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    fast.chat_template = chat_template
    return fast


def make_tiny_model(
    folder: Path,
    *,
    chat_template: str | None = CHAT_TEMPLATE,
    context_tokens: int = 256,
    architecture: str = "llama",
    corpus: Sequence[str] = CORPUS,
    hidden_size: int = 32,
) -> Path:
    """Write a model of two layers with random weights."""
    torch.manual_seed(0)
    tokenizer = make_tiny_tokenizer(chat_template=chat_template, corpus=corpus)
    config = ARCHITECTURES[architecture](
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=context_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tiny_adapter(model: Path, folder: Path, *, seed: int = 1) -> Path:
    """Write a LoRA adapter whose weights are random, so that it changes what the model says."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model)
    adapted = get_peft_model(
        base,
        LoraConfig(
            r=4,
            lora_alpha=64,
            target_modules="all-linear",
            init_lora_weights=False,
            fan_in_fan_out=base.config.model_type == "gpt2",
        ),
    )
    adapted.save_pretrained(folder)
    return folder
