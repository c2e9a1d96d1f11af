"""Behaviour that only a CUDA device can show: 4-bit weights, half precision, free memory."""

from contextlib import aclosing
from pathlib import Path

import pytest
import torch

from bot.engine.base import Completion, SamplingParams
from bot.engine.local.local_engine import LocalEngine
from bot.engine.local.weights import Weights, load_weights
from store.domain import Message
from tests.conftest import MakeAdapter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

HELLO = (Message(role="user", content="hello"),)
GREEDY = SamplingParams(max_new_tokens=12)
MEGABYTE = 2**20


def on_the_device(model: Path, folder: Path, dtype: torch.dtype, **options: bool) -> Weights:
    return load_weights(str(model), models_folder=folder, device="cuda", dtype=dtype, **options)


async def complete(engine: LocalEngine, adapter: str | None = None) -> Completion:
    async with aclosing(engine.stream(HELLO, GREEDY, adapter=adapter)) as pieces:
        *_, last = [piece async for piece in pieces]
    assert isinstance(last, Completion)
    return last


def next_token_scores(weights: Weights) -> torch.Tensor:
    prompt = torch.tensor([weights.template.encode(HELLO)], device=weights.model.device)
    with torch.inference_mode():
        scores: torch.Tensor = weights.model(prompt).logits[0, -1]
    return scores.float().cpu()


def test_qlora_loads_the_layers_in_four_bits(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")

    weights = on_the_device(tiny_model, tmp_path, torch.bfloat16, four_bits=True)

    layers = weights.model.base_model.modules()
    kinds = {type(each).__name__ for each in layers if isinstance(each, torch.nn.Linear)}
    assert kinds == {"Linear4bit"}
    assert weights.model.device.type == "cuda"
    assert torch.isfinite(next_token_scores(weights)).all()


async def test_the_engine_writes_in_half_precision(
    tiny_model: Path, tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    weights = on_the_device(tiny_model, tmp_path, torch.float16)
    exact = load_weights(str(tiny_model), models_folder=tmp_path, device="cpu", dtype=torch.float32)
    torch.testing.assert_close(
        next_token_scores(weights), next_token_scores(exact), atol=0.05, rtol=0.05
    )
    engine = LocalEngine(weights)
    adapter = make_adapter(engine.model)
    await engine.load_adapter(adapter)

    base, adapted = await complete(engine), await complete(engine, adapter.name)
    await engine.close()

    assert weights.model.dtype == torch.float16
    assert base.completion_tokens > 0
    assert adapted.adapter == adapter.name
    assert engine.unmerged == frozenset()


def test_memory_that_torch_holds_and_does_not_use_is_free(tiny_model: Path, tmp_path: Path) -> None:
    weights = on_the_device(tiny_model, tmp_path, torch.float16)
    torch.cuda.empty_cache()
    before = weights.merged._free_bytes()

    block = torch.empty(256 * MEGABYTE, dtype=torch.uint8, device="cuda")
    during = weights.merged._free_bytes()
    del block  # torch keeps it for the next tensor
    after = weights.merged._free_bytes()

    assert torch.cuda.memory_reserved() >= 256 * MEGABYTE
    assert before - during == pytest.approx(256 * MEGABYTE, abs=16 * MEGABYTE)
    assert before - after == pytest.approx(0, abs=16 * MEGABYTE)
