"""The decoding loop: one prompt, one token at a time."""

from collections.abc import Iterator, Sequence

import torch
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from bot.engine.base import SamplingParams


@torch.inference_mode()
def decode(
    model: PreTrainedModel, prompt: Sequence[int], sampling: SamplingParams
) -> Iterator[int]:
    """Yield token ids for ever; the caller stops at an end token or when it has enough.

    `prompt` is one sequence of ids. Nothing is computed ahead of the token that is asked for.
    """
    device = model.device
    generator = torch.Generator(device)
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    processors = _processors(sampling)
    cache = DynamicCache(config=model.config)
    step = torch.tensor([list(prompt)], dtype=torch.long, device=device)  # (1, tokens)
    written = step[:, :0]  # not the prompt: a reply has to be free to repeat what it was told
    while True:
        logits = model(input_ids=step, past_key_values=cache, logits_to_keep=1).logits
        scores = processors(written, logits[:, -1].float())  # type: ignore[arg-type]
        if sampling.temperature == 0:
            step = scores.argmax(dim=-1, keepdim=True)
        else:
            step = torch.multinomial(scores.softmax(dim=-1), 1, generator=generator)
        written = torch.cat([written, step], dim=1)
        yield int(step.item())


def _processors(sampling: SamplingParams) -> LogitsProcessorList:
    processors = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature > 0:
        processors.append(TemperatureLogitsWarper(float(sampling.temperature)))
        if sampling.top_p < 1:
            processors.append(TopPLogitsWarper(float(sampling.top_p)))
    return processors
