"""Fine-tunes a fresh LoRA adapter on the base model: TRL's trainers on PEFT's adapters.

Demonstrations are learned first (SFT), then pairs (DPO), then thumbs (KTO); each stage goes on
with the adapter of the one before, and holds on to the base model, not to that stage's outcome.
Rows are tokens as the engine makes them, so the model is trained on exactly what is served.

Invariant: the same rows, recipe and base give the same adapter, bit for bit, on a CPU.
"""

import json
import math
import os
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import TrainerCallback, set_seed
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from bot.engine.weights import Weights
from store.domain import Demonstration, Example, Examples, PreferencePair
from trainer.dataset import label_weights
from trainer.errors import TrainingFailed
from trainer.recipe import Recipe

WARMUP_SHARE = 0.1

WALK_BACK = (0.8, 0.6, 0.45, 0.3)
"""Shares of an update that are tried, one after another, when all of it is too much."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A moment of the training curve."""

    step: int
    steps: int
    stage: str
    loss: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a judge thinks of a checkpoint."""

    score: float
    """Higher is better."""
    within_limits: bool
    """Whether it has kept close enough to the base model to be used."""


Report = Callable[[Point], None]
"""Told of every step; may raise `RunCancelled`."""

Judge = Callable[[PeftModel], Verdict]


class Stage(Protocol):
    """One of TRL's trainers, ready to train."""

    def train(self) -> object:
        """Train to the end, or until the callback stops it."""
        ...


def finetune(
    weights: Weights,
    train: Examples,
    recipe: Recipe,
    folder: Path,
    *,
    report: Report,
    judge: Judge,
) -> Path:
    """Train an adapter and write it into `folder`; the best one within the limits wins.

    Training stops at the first checkpoint beyond them, and walks back from there.
    `weights` end up with the adapter taken off again. Raises `TrainingFailed` for examples that
    are all too long, or a model that the recipe does not fit.
    """
    set_seed(recipe.seed)
    train = fitting(weights, train, recipe)
    model = _adapted(weights, recipe)
    stages = _stages(weights, train, recipe)
    steps = sum(_steps(rows, recipe) for rows, _ in stages.values())
    watch = _Watch(report, judge, steps=steps, checkpoints=recipe.checkpoints)
    for name, (rows, make) in stages.items():
        if rows and not watch.over:
            watch.stage = name
            make(model, weights, rows, recipe, folder / "trainer", watch).train()
    if not PartialState().is_main_process:  # one of several judges and writes
        return folder / "adapter"
    if watch.over:
        watch.walk_back(model)
    _restore(model, watch.best)
    written = _write(model, weights, recipe, folder / "adapter")
    model.unload()
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    return written


def fitting(weights: Weights, train: Examples, recipe: Recipe) -> Examples:
    """The examples that `max_length` lets in. Raises `TrainingFailed` if there are none."""

    def fits(row: Mapping[str, Any]) -> bool:
        return _length(row) <= recipe.max_length

    kept = Examples(
        unpaired=tuple(e for e in train.unpaired if fits(_rated_row(weights, e))),
        pairs=tuple(e for e in train.pairs if fits(_pair_row(weights, e))),
        demonstrations=tuple(
            e for e in train.demonstrations if fits(_demonstration_row(weights, e))
        ),
    )
    if not kept.every:
        raise TrainingFailed(
            f"every example is longer than {recipe.max_length} tokens: raise "
            "RATCHET_TRAIN_MAX_LENGTH"
        )
    return kept


class _Watch(TrainerCallback):
    """Reports steps, has checkpoints judged, and keeps the best one's weights."""

    def __init__(self, report: Report, judge: Judge, *, steps: int, checkpoints: int) -> None:
        self._report = report
        self._judge = judge
        self._steps = steps
        self._moments = {
            max(1, round(steps * number / checkpoints)) for number in range(1, checkpoints + 1)
        }
        self._step = 0
        self._best_score = -float("inf")
        self.stage = ""
        self.best: Mapping[str, Tensor] | None = None
        self._beyond: Mapping[str, Tensor] | None = None
        self.over = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step += 1
        if self._step in self._moments:
            self._look(kwargs["model"], state.is_world_process_zero)
            control.should_training_stop |= self.over
        control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loss = kwargs["logs"].get("loss")
        if loss is not None and state.is_world_process_zero:
            self._report(
                Point(step=self._step, steps=self._steps, stage=self.stage, loss=float(loss))
            )

    def _look(self, model: PeftModel, main: bool) -> None:
        if main:
            model.eval()
            self.over = not self._keeps(model)
            model.train()
            if self.over:
                self._beyond = _trained(model)
                self.best = self.best or self._beyond
        [self.over] = broadcast_object_list([self.over])  # or the others would train on, alone

    def walk_back(self, model: PeftModel) -> None:
        """From beyond the limits towards the base model, until the adapter is within them.

        A LoRA update that counts less is a point between the base model and the fine-tuned one,
        which keeps most of what was learned (Wortsman et al. 2022, "Robust fine-tuning").
        """
        assert self._beyond is not None, "there is something to walk back from"
        model.eval()
        for share in WALK_BACK:
            _restore(model, _scaled(self._beyond, share))
            if self._keeps(model):
                return

    def _keeps(self, model: PeftModel) -> bool:
        """Have the model judged; whether it is within the limits. The best one is kept."""
        verdict = self._judge(model)
        if verdict.within_limits and verdict.score >= self._best_score:
            self._best_score = verdict.score
            self.best = _trained(model)
        return verdict.within_limits


def _adapted(weights: Weights, recipe: Recipe) -> PeftModel:
    targets = recipe.targets
    try:
        model = get_peft_model(
            weights.model,
            LoraConfig(
                r=recipe.rank,
                lora_alpha=recipe.alpha,
                target_modules=targets if targets == "all-linear" else targets.split(","),
                task_type="CAUSAL_LM",
            ),
        )
    except ValueError as error:
        raise TrainingFailed(
            f"RATCHET_TRAIN_TARGETS does not fit {weights.name}: {error}"
        ) from None
    assert isinstance(model, PeftModel)
    return model


def _trained(model: PeftModel) -> dict[str, Tensor]:
    return {
        name: each.detach().clone() for name, each in model.named_parameters() if each.requires_grad
    }


def _scaled(trained: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The same adapter with updates that count that much: they are products of A and B."""
    return {name: each * share if "lora_B" in name else each for name, each in trained.items()}


def _restore(model: PeftModel, best: Mapping[str, Tensor] | None) -> None:
    if best is None:
        return
    with torch.no_grad():
        for name, each in model.named_parameters():
            if name in best:
                each.copy_(best[name])


def _write(model: PeftModel, weights: Weights, recipe: Recipe, folder: Path) -> Path:
    model.save_pretrained(str(folder), safe_serialization=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    # PEFT writes sets in whatever order, and the path of the base: neither is part of the content.
    config["target_modules"] = sorted(config["target_modules"])
    config["base_model_name_or_path"] = weights.name
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    recipe_path = folder / "recipe.json"
    recipe_path.write_text(json.dumps(recipe.as_dict(), indent=2), encoding="utf-8")
    return folder


def _stages(
    weights: Weights, train: Examples, recipe: Recipe
) -> dict[str, tuple[Rows, Callable[..., Stage]]]:
    """In order: name → rows and trainer."""
    demonstrations = _bucketed(
        [_demonstration_row(weights, each) for each in train.demonstrations], recipe
    )
    pairs = _bucketed([_pair_row(weights, each) for each in train.pairs], recipe)
    rated = _bucketed([_rated_row(weights, each) for each in train.unpaired], recipe)
    return {
        "sft": (demonstrations, _sft),
        "dpo": (pairs, _dpo),
        "kto": (rated, _kto),
    }


def _rated_row(weights: Weights, each: Example) -> dict[str, Any]:
    return {
        "prompt_ids": weights.template.encode(each.prompt),
        "completion_ids": weights.template.encode_reply(each.completion, finished=each.finished),
        "label": each.label,
    }


def _pair_row(weights: Weights, each: PreferencePair) -> dict[str, Any]:
    return {
        "prompt_ids": weights.template.encode(each.prompt),
        "chosen_ids": weights.template.encode_reply(each.chosen, finished=each.chosen_finished),
        "rejected_ids": weights.template.encode_reply(
            each.rejected, finished=each.rejected_finished
        ),
    }


def _demonstration_row(weights: Weights, each: Demonstration) -> dict[str, Any]:
    prompt = weights.template.encode(each.prompt)
    reply = weights.template.encode_reply(each.completion)
    return {"input_ids": [*prompt, *reply], "labels": [*[-100] * len(prompt), *reply]}


def _length(row: Mapping[str, Any]) -> int:
    """The longest sequence of a row."""
    prompt = len(row.get("prompt_ids", row.get("input_ids", ())))
    replies = [len(row[name]) for name in row if name in _REPLIES]
    return prompt + max(replies, default=0)


_REPLIES = ("completion_ids", "chosen_ids", "rejected_ids")


def _bucketed(rows: Rows, recipe: Recipe) -> Rows:
    """Rows in batches of similar length, the batches shuffled; the odd one goes last."""
    size = recipe.batch_size
    by_length = sorted(rows, key=_length)
    whole = [by_length[start : start + size] for start in range(0, len(rows), size)]
    odd = whole.pop() if whole and len(whole[-1]) < size else []
    random.Random(recipe.seed).shuffle(whole)
    return [row for batch in (*whole, odd) for row in batch]


def _steps(rows: Rows, recipe: Recipe) -> int:
    """Steps of a stage; each of several processes takes a batch of its own a step."""
    batches = math.ceil(len(rows) / recipe.batch_size / int(os.environ.get("WORLD_SIZE", "1")))
    return max(1, round(batches * recipe.epochs)) if rows else 0


def _arguments(rows: Rows, recipe: Recipe, folder: Path, device: torch.device) -> dict[str, Any]:
    """What all three trainers are told."""
    bf16 = device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported())
    steps = _steps(rows, recipe)
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


class _AsServed:
    """Trains on rows as they are, and holds on to the base model, the adapter switched off."""

    model: PeftModel

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, *arguments: Any) -> Any:
        if "ref" in self.model.peft_config:  # TRL's copy of the adapter as it came in
            self.model.delete_adapter("ref")
        return super()._precompute_ref_logps(*arguments)  # type: ignore[misc]


class _KTO(_AsServed, KTOTrainer):  # type: ignore[misc]
    pass


class _DPO(_AsServed, DPOTrainer):  # type: ignore[misc]
    pass


def _kto(
    model: PeftModel, weights: Weights, rows: Rows, recipe: Recipe, folder: Path, watch: _Watch
) -> Stage:
    up = sum(row["label"] for row in rows)
    balance = label_weights(up, len(rows) - up)
    return _KTO(
        model=model,
        args=KTOConfig(
            **_arguments(rows, recipe, folder, model.device),
            loss_type="apo_zero_unpaired",
            beta=recipe.beta,
            desirable_weight=balance[True],
            undesirable_weight=balance[False],
            precompute_ref_log_probs=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=weights.tokenizer,
        callbacks=[watch],
    )


def _dpo(
    model: PeftModel, weights: Weights, rows: Rows, recipe: Recipe, folder: Path, watch: _Watch
) -> Stage:
    return _DPO(
        model=model,
        args=DPOConfig(
            **_arguments(rows, recipe, folder, model.device),
            beta=recipe.beta,
            precompute_ref_log_probs=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=weights.tokenizer,
        callbacks=[watch],
    )


def _sft(
    model: PeftModel, weights: Weights, rows: Rows, recipe: Recipe, folder: Path, watch: _Watch
) -> Stage:
    return SFTTrainer(
        model=model,
        args=SFTConfig(**_arguments(rows, recipe, folder, model.device), packing=False),
        train_dataset=Dataset.from_list(rows),
        processing_class=weights.tokenizer,
        callbacks=[watch],
    )
