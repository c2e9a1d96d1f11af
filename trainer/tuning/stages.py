"""Examples → rows of tokens → TRL's trainers: one stage for each kind of example.

Rows are tokens as the engine makes them, so the model is trained on exactly what is served.
An example that is too long is left out, never cut.
"""

import logging
import math
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from datasets import Dataset
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from bot.engine.local import Weights
from store.domain import Demonstration, Example, ExampleSet, PreferencePair
from trainer.errors import TrainingFailed
from trainer.examples.dataset import label_weights
from trainer.passes.reply_only_head import score_replies_only
from trainer.recipe import Recipe
from trainer.tuning.distillation import DistillationPenalty

logger = logging.getLogger(__name__)

WARMUP_SHARE = 0.1

Row = dict[str, Any]

_REPLIES = ("completion_ids", "chosen_ids", "rejected_ids")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What each stage learns from, in the order in which it is learned."""

    sft: tuple[Row, ...]
    dpo: tuple[Row, ...]
    kto: tuple[Row, ...]

    @property
    def stages(self) -> dict[str, tuple[Row, ...]]:
        """Those that have something to learn, by name."""
        every = {"sft": self.sft, "dpo": self.dpo, "kto": self.kto}
        return {name: rows for name, rows in every.items() if rows}


def make_rows(weights: Weights, train: ExampleSet, recipe: Recipe) -> Rows:
    """The examples that `max_length` and the model's context let in, those of a length together.

    Raises `TrainingFailed` if there are none.
    """
    recipe = replace(recipe, max_length=min(recipe.max_length, weights.context_tokens))
    rows = Rows(
        sft=_bucketed([_demonstration_row(weights, each) for each in train.demonstrations], recipe),
        dpo=_bucketed([_pair_row(weights, each) for each in train.pairs], recipe),
        kto=_bucketed([_rated_row(weights, each) for each in train.unpaired], recipe),
    )
    given = len(train.every)
    left_out = given - len(rows.sft) - len(rows.dpo) - len(rows.kto)
    if left_out:
        logger.warning(
            "%d of %d examples are longer than %d tokens and left out",
            *(left_out, given, recipe.max_length),
        )
    one_sided = len({row["label"] for row in rows.kto}) == 1
    if one_sided and (rows.sft or rows.dpo):
        logger.warning("thumbs are left out: those of the other kind are too long")
        return replace(rows, kto=())
    if not rows.stages or one_sided:
        what = "example" if not rows.stages else "👍, or every 👎,"
        raise TrainingFailed(
            f"every {what} is longer than {recipe.max_length} tokens: raise "
            "RATCHET_TRAIN_MAX_LENGTH, as far as the model's context goes"
        )
    return rows


def count_steps(rows: Sequence[Row], recipe: Recipe) -> int:
    """Steps of a stage; each of several processes takes a batch of its own a step."""
    batches = math.ceil(len(rows) / recipe.batch_size / int(os.environ.get("WORLD_SIZE", "1")))
    return max(1, round(batches * recipe.epochs))


class Stage:
    """One of TRL's trainers, on rows as they are, that holds on to the base model.

    The reference is the model with the adapter switched off; the anchor pulls besides.
    """

    accelerator: Accelerator
    model: PeftModel
    anchor: DistillationPenalty | None = None
    anchor_weight = 0.0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, **options: Any
    ) -> Any:
        """What TRL makes of a batch, and the weighted distance from the base."""
        found = super().compute_loss(model, inputs, return_outputs, **options)  # type: ignore[misc]
        if self.anchor is None:
            return found
        with self.accelerator.autocast():  # as `model` does, which makes all scores fp32 besides
            pull = self.anchor_weight * self.anchor.distance(self.model.get_base_model())
        return (found[0] + pull, found[1]) if return_outputs else found + pull

    def train(self, *arguments: Any, **options: Any) -> Any:
        """As TRL does, but for the head."""
        self._spare_prompts()
        return super().train(*arguments, **options)  # type: ignore[misc]

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
        return dataset

    def _spare_prompts(self) -> None:
        if self.model.device.type == "cpu":
            score_replies_only(self.model.get_base_model())

    def _precompute_ref_logps(self, *arguments: Any) -> Any:
        if "ref" in self.model.peft_config:  # TRL's copy of the adapter as it came in
            self.model.delete_adapter("ref")
        self._spare_prompts()
        return super()._precompute_ref_logps(*arguments)  # type: ignore[misc]


class _SFT(Stage, SFTTrainer):  # type: ignore[misc]
    pass


class _DPO(Stage, DPOTrainer):  # type: ignore[misc]
    pass


class _KTO(Stage, KTOTrainer):  # type: ignore[misc]
    pass


def train_stage(
    name: str,
    rows: Sequence[Row],
    model: PeftModel,
    weights: Weights,
    recipe: Recipe,
    folder: Path,
    *,
    anchor: DistillationPenalty | None,
    watch: TrainerCallback,
) -> None:
    """Train one stage to its end, or until `watch` stops it."""
    common = _arguments(rows, recipe, folder, model.device)
    kind: Any
    arguments: Any
    match name:
        case "sft":
            kind, arguments = _SFT, SFTConfig(**common, packing=False)
        case "dpo":
            kind = _DPO
            arguments = DPOConfig(**common, beta=recipe.beta, precompute_ref_log_probs=True)
        case _:
            kind = _KTO
            up = sum(row["label"] for row in rows)
            balance = label_weights(up, len(rows) - up)
            arguments = KTOConfig(
                **common,
                beta=recipe.beta,
                loss_type="apo_zero_unpaired",
                desirable_weight=balance[True],
                undesirable_weight=balance[False],
                precompute_ref_log_probs=True,
            )
    stage = kind(
        model=model,
        args=arguments,
        train_dataset=_on_disk(rows, folder / name),
        processing_class=weights.tokenizer,
        callbacks=[watch],
    )
    stage.remove_callback(PrinterCallback)  # `watch` reports
    stage.anchor, stage.anchor_weight = anchor, recipe.rehearsal_weight
    # Under autocast LoRA's inputs would be made fp32, and bf16 again. Not every GPU has autocast,
    # and weights in four bits are judged without it.
    with disable_input_dtype_casting(model, active=model.device.type == "cpu"):
        stage.train()


def _on_disk(rows: Sequence[Row], folder: Path) -> Dataset:
    """Rows in a folder that several processes share, with what TRL computes of them once."""
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
    """The longest sequence of a row."""
    prompt = len(row.get("prompt_ids", row.get("input_ids", ())))
    replies = [len(row[name]) for name in row if name in _REPLIES]
    return prompt + max(replies, default=0)


def _bucketed(every: Sequence[Row], recipe: Recipe) -> tuple[Row, ...]:
    """Rows that fit, in batches of similar length, the batches shuffled; the odd one goes last."""
    rows = sorted((row for row in every if _length(row) <= recipe.max_length), key=_length)
    size = recipe.batch_size
    whole = [rows[start : start + size] for start in range(0, len(rows), size)]
    odd = whole.pop() if whole and len(whole[-1]) < size else []
    random.Random(recipe.seed).shuffle(whole)
    return tuple(row for batch in (*whole, odd) for row in batch)


def _arguments(
    rows: Sequence[Row], recipe: Recipe, folder: Path, device: torch.device
) -> dict[str, Any]:
    """What all three trainers are told."""
    bf16 = device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported())
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
        "fp16": not bf16 and device.type == "cuda",
        "use_cpu": device.type == "cpu",
        "activation_checkpointing": False,
        "max_length": recipe.max_length,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": recipe.seed,
        "dataloader_pin_memory": device.type == "cuda",
        "remove_unused_columns": False,
        "train_sampling_strategy": "sequential",  # the rows are in order already
    }
