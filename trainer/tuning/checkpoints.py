"""The search for the best checkpoint of a training: judging, stopping early, scaling the update.

Leaves the judging itself to a `Judge`, and the training to `trainer/tuning/finetune.py`.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from accelerate.utils import broadcast_object_list
from peft import PeftModel
from torch import Tensor
from transformers import TrainerCallback

logger = logging.getLogger(__name__)

STOP_ABOVE = 8.0
"""Budget use above which training stops. Below it, the decaying learning rate usually brings the
adapter back within the budget."""

SCORE_NOISE = 0.03
"""Score difference that means nothing, since scores are means over few replies: the later
checkpoint wins."""

SMALLER_SHARES = (0.9, 0.8, 0.65, 0.5, 0.35)
"""Shares of the last update that are tried, one after another, if all of it exceeds the budget."""

LARGER_SHARES = (1.1, 1.5)
"""Smallest and largest factor by which the last update may be enlarged if budget is left."""

TARGET_BUDGET_USE = 0.9
"""Budget use that an enlarged update aims at: the divergence grows with the factor's square."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of the training curve."""

    step: int
    steps: int
    """Number of steps of the whole training."""
    stage: str
    loss: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A judge's verdict on a checkpoint."""

    score: float
    """Higher is better."""
    budget_used: float
    """Share of the permitted loss against the base model that is used up; above 1 the checkpoint
    cannot be used."""

    @property
    def usable(self) -> bool:
        """True if the checkpoint is within the budget."""
        return self.budget_used <= 1


Report: TypeAlias = Callable[[Point], None]
"""Called after every step; may raise `RunCancelled`."""

Judge: TypeAlias = Callable[[PeftModel], Verdict]


class CheckpointSearch(TrainerCallback):
    """Reports steps, has checkpoints judged, and keeps a copy of the best one.

    One search follows all stages of a training. Of several processes, only the main one judges.
    """

    def __init__(self, report: Report, judge: Judge, *, steps: int, checkpoints: int) -> None:
        self._report = report
        self._judge = judge
        self._steps = steps
        self._judged_steps = {
            max(1, round(steps * number / checkpoints)) for number in range(1, checkpoints + 1)
        }
        self._step = 0
        self._best: Mapping[str, Tensor] | None = None
        self._best_score = -math.inf
        self._budget_used = 0.0
        """Budget use of the checkpoint that was judged last."""
        self._last_is_best = False
        self.stage = ""
        """Name of the training stage under way."""
        self.stopped = False
        """True after a checkpoint far beyond the budget: training must not go on."""

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """Judge the checkpoint if it is due, and have the loss of every step logged."""
        self._step += 1
        if self._step in self._judged_steps:
            self._judge_checkpoint(options["model"], is_main=state.is_world_process_zero)
            control.should_training_stop |= self.stopped
        control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """Report the step; see `TrainerCallback`."""
        loss = options["logs"].get("loss")
        if loss is not None and state.is_world_process_zero:
            self._report(
                Point(step=self._step, steps=self._steps, stage=self.stage, loss=float(loss))
            )

    def best(self, model: PeftModel) -> Mapping[str, Tensor]:
        """Return the adapter weights of the best checkpoint, after trying other sizes of the last.

        The best is the last one within the budget whose score no other exceeds by more than noise;
        if none is within it, the smallest update that was tried. If the last checkpoint exceeds the
        budget, smaller shares of its update are tried until one is within it: a scaled LoRA update
        lies on the line between the base and the fine-tuned model, keeps most of what was learned
        and forgets less (Wortsman et al. 2022, "Robust fine-tuning"). If the last checkpoint is the
        best and leaves budget, one larger share is tried. Where nothing predicts ratings, a larger
        share counts as better, just as a later checkpoint does.
        """
        model.eval()
        last = adapter_weights(model)
        for share in self._shares_to_try():
            set_adapter_weights(model, scaled(last, share))
            self._judge_weights(model)
            if self._budget_used <= 1:
                break
        return self._best or adapter_weights(model)

    def _shares_to_try(self) -> Sequence[float]:
        if self._budget_used > 1:
            return SMALLER_SHARES
        smallest, largest = LARGER_SHARES
        share = math.sqrt(
            TARGET_BUDGET_USE / max(self._budget_used, TARGET_BUDGET_USE / largest**2)
        )
        return (share,) if self._last_is_best and share >= smallest else ()

    def _judge_checkpoint(self, model: PeftModel, *, is_main: bool) -> None:
        if is_main:
            model.eval()
            self._judge_weights(model)
            model.train()
        # Every process has to stop, or the others would wait for it forever.
        [self.stopped] = broadcast_object_list([self._budget_used > STOP_ABOVE])

    def _judge_weights(self, model: PeftModel) -> None:
        """Have the current weights judged; keep a copy if they are the best so far."""
        verdict = self._judge(model)
        self._budget_used = verdict.budget_used
        logger.info(
            "step %d of %d: score %.3f, %.2f of the drift budget used",
            self._step,
            self._steps,
            verdict.score,
            verdict.budget_used,
        )
        self._last_is_best = verdict.usable and verdict.score > self._best_score - SCORE_NOISE
        if self._last_is_best:
            self._best = adapter_weights(model)
            self._best_score = max(self._best_score, verdict.score)


def adapter_weights(model: PeftModel) -> dict[str, Tensor]:
    """Return a copy of the trained weights, by name."""
    return {
        name: each.detach().clone() for name, each in model.named_parameters() if each.requires_grad
    }


def set_adapter_weights(model: PeftModel, adapter: Mapping[str, Tensor]) -> None:
    """Write trained weights back into a model."""
    with torch.no_grad():
        for name, each in model.named_parameters():
            if name in adapter:
                each.copy_(adapter[name])


def scaled(adapter: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return the adapter with its update scaled: the update is B·A, so only B is multiplied."""
    return {name: each * share if "lora_B" in name else each for name, each in adapter.items()}
