"""Fine-tunes a fresh LoRA adapter on the base model: TRL's trainers on PEFT's adapters.

Stages run in the order SFT (demonstrations), DPO (pairs), KTO (thumbs). Each stage continues with
the adapter of the stage before; its reference is always the base model.

Invariant: the same rows, recipe and base give the same adapter, bit for bit, on a CPU.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch.nn import Linear
from transformers import PreTrainedModel, set_seed
from transformers.pytorch_utils import Conv1D

from bot.engine.local import Weights
from store.domain import ExampleSet
from trainer.errors import TrainingFailed
from trainer.passes.activation_cache import cached_frozen_layers
from trainer.passes.reply import Reply
from trainer.recipe import Recipe
from trainer.tuning.checkpoints import (
    CheckpointSearch,
    Judge,
    Report,
    scaled,
    set_adapter_weights,
)
from trainer.tuning.distillation import DistillationPenalty
from trainer.tuning.stages import count_steps, make_rows, train_stage

ADAPTER_FOLDER = "adapter"

REHEARSED_PER_EXAMPLE = 1.5
"""Rehearsed answers in a step for each example in it; with fewer, more is forgotten."""


def finetune(
    weights: Weights,
    train: ExampleSet,
    recipe: Recipe,
    folder: Path,
    *,
    rehearsed: Sequence[Reply] = (),
    report: Report,
    judge: Judge,
) -> Path:
    """Train an adapter, write the best checkpoint into `folder`, and return where it is.

    `rehearsed` are the base model's replies that the distillation penalty holds on to. See
    `CheckpointSearch` for how the best checkpoint is found. The adapter is taken off `weights`
    again afterwards. Raises `TrainingFailed` if all examples are too long, or if the recipe does
    not fit the model.
    """
    set_seed(recipe.seed)
    stages = make_rows(weights, train, recipe).stages
    steps = sum(count_steps(rows, recipe) for rows in stages.values())
    search = CheckpointSearch(report, judge, steps=steps, checkpoints=recipe.checkpoints)
    trainer_folder = folder / "trainer"
    with cached_frozen_layers(weights.model, _adapted_layers(weights.model, recipe.layers)[0]):
        penalty = _penalty(weights, rehearsed, recipe)
        model = _with_adapter(weights, recipe)
        for name, rows in stages.items():
            if search.stopped:
                break
            search.stage = name
            train_stage(
                name, rows, model, weights, recipe, trainer_folder, penalty=penalty, search=search
            )
    if not PartialState().is_main_process:  # only the main process judges and writes
        return folder / ADAPTER_FOLDER
    set_adapter_weights(model, search.best(model))
    written = _write(model, weights, recipe, folder / ADAPTER_FOLDER)
    model.unload()
    shutil.rmtree(trainer_folder, ignore_errors=True)
    return written


def scale_adapter(adapter: Path, share: float, folder: Path) -> Path:
    """Copy an adapter into `folder`, with its update scaled by `share`; return the folder."""
    shutil.copytree(adapter, folder)
    file = folder / "adapter_model.safetensors"
    save_file(scaled(load_file(file), share), file, metadata={"format": "pt"})
    return folder


def _penalty(
    weights: Weights, rehearsed: Sequence[Reply], recipe: Recipe
) -> DistillationPenalty | None:
    if not rehearsed or not recipe.rehearsal_weight:
        return None
    batch_size = max(1, round(recipe.batch_size * REHEARSED_PER_EXAMPLE))
    seed = recipe.seed + PartialState().process_index  # each process has an order of its own
    return DistillationPenalty(weights, rehearsed, batch_size=batch_size, seed=seed)


def _with_adapter(weights: Weights, recipe: Recipe) -> PeftModel:
    try:
        model = get_peft_model(
            weights.model,
            LoraConfig(
                r=recipe.rank,
                lora_alpha=recipe.alpha,
                target_modules=_target_modules(weights.model, recipe),
                layers_to_transform=_adapted_layers(weights.model, recipe.layers),
                task_type="CAUSAL_LM",
            ),
        )
    except ValueError as error:
        raise TrainingFailed(f"the recipe's targets do not fit {weights.name}: {error}") from None
    assert isinstance(model, PeftModel)
    return model


def _target_modules(model: PreTrainedModel, recipe: Recipe) -> list[str]:
    """Return the last parts of the names of the modules that are adapted."""
    if recipe.targets != "all-linear":
        return recipe.targets.split(",")
    decoder: Any = model.base_model  # the model without its head
    linear = [name for name, each in decoder.named_modules() if isinstance(each, (Linear, Conv1D))]
    return sorted({name.rsplit(".", 1)[-1] for name in linear})


def _adapted_layers(model: PreTrainedModel, share: float) -> list[int]:
    """Return the numbers of the last layers, as many as the share says and at least one."""
    count = model.config.get_text_config().num_hidden_layers
    return list(range(count - max(1, round(count * share)), count))


def _write(model: PeftModel, weights: Weights, recipe: Recipe, folder: Path) -> Path:
    model.save_pretrained(str(folder), safe_serialization=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    # The hash of an adapter must not depend on the order of a set, or on where the base lies.
    config["target_modules"] = sorted(config["target_modules"])
    config["base_model_name_or_path"] = weights.name
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    recipe_path = folder / "recipe.json"
    recipe_path.write_text(json.dumps(recipe.as_dict(), indent=2), encoding="utf-8")
    return folder
