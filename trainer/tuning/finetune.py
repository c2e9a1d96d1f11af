"""Fine-tunes a fresh LoRA adapter on the base model: TRL's trainers on PEFT's adapters.

Demonstrations are learned first (SFT), then pairs (DPO), then thumbs (KTO); each stage goes on
with the adapter of the one before, and holds on to the base model, not to that stage's outcome.

Invariant: the same rows, recipe and base give the same adapter, bit for bit, on a CPU.
"""

import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Linear
from transformers import PreTrainedModel, TrainerCallback, set_seed
from transformers.pytorch_utils import Conv1D

from bot.engine.local import Weights
from store.domain import ExampleSet
from trainer.errors import TrainingFailed
from trainer.passes.activation_cache import frozen_layers_once
from trainer.proving.drift import Reply
from trainer.recipe import Recipe
from trainer.tuning.distillation import DistillationPenalty
from trainer.tuning.stages import count_steps, make_rows, train_stage

logger = logging.getLogger(__name__)

ADAPTER_FOLDER = "adapter"

ANCHORED = 1.5
"""Rehearsed answers in a step, as a share of its examples: with fewer, more is forgotten."""

CLIFF = 8.0
"""Strain at which training stops: a learning rate that falls brings back what strayed less."""

DOUBT = 0.03
"""Scores are means over few replies: less of a difference is none, and the later one wins."""

WALK_BACK = (0.9, 0.8, 0.65, 0.5, 0.35)
"""Shares of an update that are tried, one after another, when all of it is too much."""

FURTHER = (1.1, 1.5)
"""The least and the most that an update is made to count when there is room left."""

ROOM = 0.9
"""The strain that is aimed at: the divergence grows with the square of what an update counts."""


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
    strain: float
    """Share of what may be lost of the base model that is lost: up to 1 it can be used."""


Report = Callable[[Point], None]
"""Told of every step; may raise `RunCancelled`."""

Judge = Callable[[PeftModel], Verdict]


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
    """Train an adapter and write it into `folder`; the best one within the limits wins.

    `rehearsed` are replies of the base model that are held on to. Training stops at a checkpoint
    over the cliff; from one that ends beyond the limits it walks back. `weights` end up with the
    adapter taken off again. Raises `TrainingFailed` for examples that are all too long, or a model
    that the recipe does not fit.
    """
    set_seed(recipe.seed)
    stages = make_rows(weights, train, recipe).stages
    steps = sum(count_steps(rows, recipe) for rows in stages.values())
    watch = _Watch(report, judge, steps=steps, checkpoints=recipe.checkpoints)
    with frozen_layers_once(weights.model, _last_layers(weights.model, recipe.layers)[0]):
        anchor = _anchor(weights, rehearsed, recipe)
        model = _adapted(weights, recipe)
        for name, rows in stages.items():
            if not watch.fallen:
                watch.stage = name
                where = folder / "trainer"
                train_stage(name, rows, model, weights, recipe, where, anchor=anchor, watch=watch)
    if not PartialState().is_main_process:  # one of several judges and writes
        return folder / ADAPTER_FOLDER
    _restore(model, watch.best(model))
    written = _write(model, weights, recipe, folder / ADAPTER_FOLDER)
    model.unload()
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    return written


def shrunk(update: Path, share: float, folder: Path) -> Path:
    """A copy of an adapter whose update of the weights counts `share` times as much."""
    shutil.copytree(update, folder)
    file = folder / "adapter_model.safetensors"
    save_file(_scaled(load_file(file), share), file, metadata={"format": "pt"})
    return folder


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
        self._best: Mapping[str, Tensor] | None = None
        self._top = -math.inf
        self._strain = 0.0
        self._last_won = False
        self.stage = ""
        self.fallen = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step += 1
        if self._step in self._moments:
            self._look(kwargs["model"], state.is_world_process_zero)
            control.should_training_stop |= self.fallen
        control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loss = kwargs["logs"].get("loss")
        if loss is not None and state.is_world_process_zero:
            self._report(
                Point(step=self._step, steps=self._steps, stage=self.stage, loss=float(loss))
            )

    def best(self, model: PeftModel) -> Mapping[str, Tensor]:
        """The last weights within the limits that score as well as any; without any, the least.

        From an end beyond the limits it goes towards the base model until the adapter is within
        them. A LoRA update that counts less is a point between the base and the fine-tuned model,
        which keeps most of what was learned and forgets less (Wortsman et al. 2022, "Robust
        fine-tuning"). An end that leaves room is followed further on the same line, once; where
        nothing can tell what people like, further is taken to be better, as later is.
        """
        model.eval()
        last = _trained(model)
        for share in self._shares():
            _restore(model, _scaled(last, share))
            self._see(model)
            if self._strain <= 1:
                break
        return self._best or _trained(model)

    def _shares(self) -> Sequence[float]:
        """How much of the last weights' update is tried, one after another."""
        if self._strain > 1:
            return WALK_BACK
        least, most = FURTHER
        further = math.sqrt(ROOM / max(self._strain, ROOM / most**2))
        return (further,) if self._last_won and further >= least else ()

    def _look(self, model: PeftModel, main: bool) -> None:
        if main:
            model.eval()
            self._see(model)
            model.train()
        [self.fallen] = broadcast_object_list([self._strain > CLIFF])  # or others trained on, alone

    def _see(self, model: PeftModel) -> None:
        """Have the model judged; what is within the limits and scores as well as any is kept."""
        verdict = self._judge(model)
        self._strain = verdict.strain
        logger.info(
            "step %d of %d: score %.3f, strain %.2f",
            *(self._step, self._steps, verdict.score, verdict.strain),
        )
        usable, liked = verdict.strain <= 1, verdict.score > self._top - DOUBT
        self._last_won = usable and liked
        if self._last_won:
            self._best = _trained(model)
            self._top = max(self._top, verdict.score)


def _anchor(
    weights: Weights, rehearsed: Sequence[Reply], recipe: Recipe
) -> DistillationPenalty | None:
    if not rehearsed or not recipe.rehearsal_weight:
        return None
    batch_size = max(1, round(recipe.batch_size * ANCHORED))
    seed = recipe.seed + PartialState().process_index  # several processes take different ones
    return DistillationPenalty(weights, rehearsed, batch_size=batch_size, seed=seed)


def _adapted(weights: Weights, recipe: Recipe) -> PeftModel:
    try:
        model = get_peft_model(
            weights.model,
            LoraConfig(
                r=recipe.rank,
                lora_alpha=recipe.alpha,
                target_modules=_targets(weights.model, recipe),
                layers_to_transform=_last_layers(weights.model, recipe.layers),
                task_type="CAUSAL_LM",
            ),
        )
    except ValueError as error:
        raise TrainingFailed(f"the recipe's targets do not fit {weights.name}: {error}") from None
    assert isinstance(model, PeftModel)
    return model


def _targets(model: PreTrainedModel, recipe: Recipe) -> list[str]:
    """The last parts of the names of the modules that are adapted."""
    if recipe.targets != "all-linear":
        return recipe.targets.split(",")
    inside: Any = model.base_model  # the layers, without the head
    linear = [n for n, each in inside.named_modules() if isinstance(each, (Linear, Conv1D))]
    return sorted({name.rsplit(".", 1)[-1] for name in linear})


def _last_layers(model: PreTrainedModel, share: float) -> list[int]:
    """The numbers of that share of the layers, from the last; one at least."""
    count = model.config.get_text_config().num_hidden_layers
    return list(range(count - max(1, round(count * share)), count))


def _trained(model: PeftModel) -> dict[str, Tensor]:
    return {
        name: each.detach().clone() for name, each in model.named_parameters() if each.requires_grad
    }


def _scaled(trained: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The same adapter with updates that count that much: they are products of A and B."""
    return {name: each * share if "lora_B" in name else each for name, each in trained.items()}


def _restore(model: PeftModel, best: Mapping[str, Tensor]) -> None:
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
