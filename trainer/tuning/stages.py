"""The stages of a training: one of TRL's trainers for each kind of example.

Examples become rows of tokens in the way the engine encodes them, so the model is trained on
exactly what is served. An example that is too long is left out, never cut.
"""

import logging
import math
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, assert_never

import torch
from accelerate import Accelerator, PartialState
from datasets import Dataset
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from bot.engine.local import Weights, multiplies_bf16
from store.domain import Demonstration, Example, ExampleSet, PreferencePair
from trainer.errors import TrainingFailed
from trainer.examples.dataset import label_weights
from trainer.passes.reply_only_head import score_replies_only
from trainer.recipe import Recipe
from trainer.tuning.checkpoints import CheckpointSearch
from trainer.tuning.distillation import DistillationPenalty

logger = logging.getLogger(__name__)

WARMUP_SHARE = 0.1
"""Share of the steps over which the learning rate rises."""

Row: TypeAlias = dict[str, Any]

StageName: TypeAlias = Literal["sft", "dpo", "kto"]

_REPLIES = ("completion_ids", "chosen_ids", "rejected_ids")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of each stage, in the order in which they are trained on."""

    sft: tuple[Row, ...]
    dpo: tuple[Row, ...]
    kto: tuple[Row, ...]

    @property
    def stages(self) -> dict[StageName, tuple[Row, ...]]:
        """The stages that have rows, in their order."""
        stages: dict[StageName, tuple[Row, ...]] = {
            "sft": self.sft,
            "dpo": self.dpo,
            "kto": self.kto,
        }
        return {name: rows for name, rows in stages.items() if rows}


def make_rows(weights: Weights, train: ExampleSet, recipe: Recipe) -> Rows:
    """Encode the examples that fit `max_length` and the model's context, grouped by length.

    Raises `TrainingFailed` if none does, or if only thumbs of one kind do.
    """
    recipe = replace(recipe, max_length=min(recipe.max_length, weights.context_tokens))
    rows = Rows(
        sft=_bucketed([_demonstration_row(weights, each) for each in train.demonstrations], recipe),
        dpo=_bucketed([_pair_row(weights, each) for each in train.pairs], recipe),
        kto=_bucketed([_rated_row(weights, each) for each in train.unpaired], recipe),
    )
    count = len(train.every)
    too_long = count - len(rows.sft) - len(rows.dpo) - len(rows.kto)
    if too_long:
        logger.warning(
            "left out %d of %d examples: they are longer than %d tokens",
            too_long,
            count,
            recipe.max_length,
        )
    one_sided = len({row["label"] for row in rows.kto}) == 1
    if one_sided and (rows.sft or rows.dpo):
        logger.warning("left out the ratings: every 👍, or every 👎, is too long")
        return replace(rows, kto=())
    if not rows.stages or one_sided:
        what = "example" if not rows.stages else "👍, or every 👎,"
        raise TrainingFailed(
            f"every {what} is longer than {recipe.max_length} tokens: raise "
            "RATCHET_TRAIN_MAX_LENGTH, as far as the model's context goes"
        )
    return rows


def count_steps(rows: Sequence[Row], recipe: Recipe) -> int:
    """Return the steps of a stage; in a step, each process takes a batch of its own."""
    batches = math.ceil(len(rows) / recipe.batch_size / int(os.environ.get("WORLD_SIZE", "1")))
    return max(1, round(batches * recipe.epochs))


class Stage:
    """Mixin for TRL's trainers: takes rows as they are, and adds the distillation penalty.

    The reference model is the model with its adapter switched off.
    """

    accelerator: Accelerator
    model: PeftModel
    penalty: DistillationPenalty | None = None
    penalty_weight = 0.0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, **options: Any
    ) -> Any:
        """Return TRL's loss plus the weighted penalty."""
        found = super().compute_loss(model, inputs, return_outputs, **options)  # type: ignore[misc]
        if self.penalty is None:
            return found
        # As Accelerate's wrapper of the model does, which also converts all logits to fp32.
        with self.accelerator.autocast():
            penalty = self.penalty_weight * self.penalty.distance(self.model.get_base_model())
        return (found[0] + penalty, found[1]) if return_outputs else found + penalty

    def train(self, *arguments: Any, **options: Any) -> Any:
        """Train as TRL does, but score replies only."""
        self._score_replies_only()
        return super().train(*arguments, **options)  # type: ignore[misc]

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
        return dataset

    def _score_replies_only(self) -> None:
        if self.model.device.type == "cpu":
            score_replies_only(self.model.get_base_model())

    def _precompute_ref_logps(self, *arguments: Any) -> Any:
        # Without TRL's copy of the incoming adapter, the base model is the reference.
        if "ref" in self.model.peft_config:
            self.model.delete_adapter("ref")
        self._score_replies_only()
        return super()._precompute_ref_logps(*arguments)  # type: ignore[misc]


class _SFT(Stage, SFTTrainer):  # type: ignore[misc]
    pass


class _DPO(Stage, DPOTrainer):  # type: ignore[misc]
    pass


class _KTO(Stage, KTOTrainer):  # type: ignore[misc]
    pass


def train_stage(
    name: StageName,
    rows: Sequence[Row],
    model: PeftModel,
    weights: Weights,
    recipe: Recipe,
    folder: Path,
    *,
    penalty: DistillationPenalty | None,
    search: CheckpointSearch,
) -> None:
    """Train one stage to its end, or until `search` stops it."""
    common = _arguments(rows, recipe, folder, model)
    trainer, arguments = _trainer(name, rows, recipe, common)
    stage = trainer(
        model=model,
        args=arguments,
        train_dataset=_on_disk(rows, folder / name),
        processing_class=weights.tokenizer,
        callbacks=[search],
    )
    stage.remove_callback(PrinterCallback)  # `search` reports the loss
    stage.penalty, stage.penalty_weight = penalty, recipe.rehearsal_weight
    # PEFT would convert LoRA's inputs to fp32, and autocast back to bf16. On a GPU the conversion
    # stays: some GPUs have no autocast, and four-bit weights are judged without it.
    with disable_input_dtype_casting(model, active=model.device.type == "cpu"):
        stage.train()


def _trainer(
    name: StageName, rows: Sequence[Row], recipe: Recipe, common: Mapping[str, Any]
) -> tuple[Any, Any]:
    """Return the class of a stage's trainer, and its arguments."""
    match name:
        case "sft":
            return _SFT, SFTConfig(**common, packing=False)
        case "dpo":
            return _DPO, DPOConfig(**common, beta=recipe.beta, precompute_ref_log_probs=True)
        case "kto":
            up = sum(row["label"] for row in rows)
            balance = label_weights(up, len(rows) - up)
            return _KTO, KTOConfig(
                **common,
                beta=recipe.beta,
                loss_type="apo_zero_unpaired",
                desirable_weight=balance[True],
                undesirable_weight=balance[False],
                precompute_ref_log_probs=True,
            )
        case _:
            assert_never(name)


def _on_disk(rows: Sequence[Row], folder: Path) -> Dataset:
    """Save the rows in a folder, so that all processes share what TRL computes from them once."""
    state = PartialState()
    with state.main_process_first():
        if state.is_main_process:
            Dataset.from_list(list(rows)).save_to_disk(folder)
    return Dataset.load_from_disk(folder)


def _rated_row(weights: Weights, each: Example) -> Row:
    return {
        "prompt_ids": weights.template.encode(each.prompt),
        "completion_ids": weights.template.encode_reply(each.completion, finished=each.finished),
        "label": each.label,
    }


def _pair_row(weights: Weights, each: PreferencePair) -> Row:
    return {
        "prompt_ids": weights.template.encode(each.prompt),
        "chosen_ids": weights.template.encode_reply(each.chosen, finished=each.chosen_finished),
        "rejected_ids": weights.template.encode_reply(
            each.rejected, finished=each.rejected_finished
        ),
    }


def _demonstration_row(weights: Weights, each: Demonstration) -> Row:
    prompt = weights.template.encode(each.prompt)
    reply = weights.template.encode_reply(each.completion)
    return {"input_ids": [*prompt, *reply], "labels": [*[-100] * len(prompt), *reply]}


def _length(row: Mapping[str, Any]) -> int:
    """Return the length of a row's longest sequence."""
    prompt = len(row.get("prompt_ids", row.get("input_ids", ())))
    replies = [len(row[name]) for name in row if name in _REPLIES]
    return prompt + max(replies, default=0)


def _bucketed(every: Sequence[Row], recipe: Recipe) -> tuple[Row, ...]:
    """Return the rows that fit, in batches of similar length.

    The batches are shuffled, but for a smaller one, which comes last.
    """
    rows = sorted((row for row in every if _length(row) <= recipe.max_length), key=_length)
    size = recipe.batch_size
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    smaller = batches.pop() if batches and len(batches[-1]) < size else []
    random.Random(recipe.seed).shuffle(batches)
    return tuple(row for batch in (*batches, smaller) for row in batch)


def _arguments(
    rows: Sequence[Row], recipe: Recipe, folder: Path, model: PeftModel
) -> dict[str, Any]:
    """Return the arguments that all three trainers have in common."""
    on_cuda, on_cpu = model.device.type == "cuda", model.device.type == "cpu"
    bf16 = on_cpu and (multiplies_bf16() or model.dtype == torch.bfloat16)
    if on_cuda:
        bf16 = torch.cuda.is_bf16_supported()
    steps = count_steps(rows, recipe)
    return {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": round(steps * WARMUP_SHARE),
        "weight_decay": 0.0,
        "bf16": bf16,
        "fp16": on_cuda and not bf16,
        "use_cpu": on_cpu,
        "activation_checkpointing": False,
        "max_length": recipe.max_length,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": recipe.seed,
        "dataloader_pin_memory": on_cuda,
        "remove_unused_columns": False,
        "train_sampling_strategy": "sequential",  # the rows are shuffled already
    }
