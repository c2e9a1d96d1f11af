"""Comparison of training recipes, their effect and cost: `python -m benchmarks.learn`.

Each persona rates the same sampled replies of the base model. Each recipe learns from them, and is
measured on topics that were never rated: the share of replies that please, the base model's NLL of
these replies (nats a token), the retention suite, and the seconds of training. TRL's own trainers
run on the same examples with their defaults, except for the learning rate, β, the batch, the epochs
and an adapter of the same rank, in a process like that of a run (`RUN_ENVIRONMENT`). Their adapter
is on every layer, which is PEFT's default; so is that of "every layer".
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from rich.console import Console
from rich.table import Table
from trl import KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from bot.engine.base import SamplingParams
from bot.engine.local import Weights, load_weights
from bot.engine.lora import read_updates
from examples.audience import (
    NEW_TOPICS,
    NOISE,
    PERSONAS,
    RATED_TOPICS,
    SETTINGS,
    SYSTEM_PROMPT,
    Persona,
    questions,
)
from examples.scratch import as_a_run_is, scratch_settings
from store.domain import Example, ExampleSet, Origin, OriginKind
from store.embedder import SentenceEmbedder
from store.settings import Settings
from trainer.passes.generation import generate_replies, prompt_for, with_seeds
from trainer.passes.reply import Reply
from trainer.passes.scoring import mean_nll
from trainer.passes.training_attention import attend_by_matrix_products
from trainer.proving.predictor import RatingPredictor
from trainer.proving.retention import answer_checks, load_retention_suite, pass_rate
from trainer.recipe import Recipe
from trainer.tuning.checkpoint_judge import CheckpointJudge
from trainer.tuning.checkpoints import Point, Verdict
from trainer.tuning.finetune import finetune
from trainer.tuning.rehearsal import rehearse

MEASURED = 192
"""Number of replies measured, on topics never rated."""

SAMPLING = SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=72)


@dataclass(frozen=True, kw_only=True)
class Row:
    """Results of one recipe for one persona: the four columns of the table."""

    persona: str
    recipe: str
    pleased: float
    nll: float
    retention: float
    seconds: float


def collect(weights: Weights, count: int) -> list[Reply]:
    """Sample replies of the base model, for every persona to rate."""
    prompts = [prompt_for(SYSTEM_PROMPT, each) for each in questions(RATED_TOPICS, count)]
    return generate_replies(weights, prompts, with_seeds(SAMPLING, count))


def rate(persona: Persona, replies: Sequence[Reply]) -> ExampleSet:
    """Return the ratings that a persona gives replies, one thumb in ten wrong."""
    draw = random.Random(0)
    now = datetime.now(UTC)
    rated = []
    for number, reply in enumerate(replies):
        pleased = persona.likes(reply.prompt[-1].content, reply.text)
        wrong = draw.random() < NOISE
        if reply.text.strip():
            rated.append(
                Example(
                    origin=Origin(kind=OriginKind.RATED, turn_id=number),
                    prompt=reply.prompt,
                    completion=reply.text,
                    label=pleased != wrong,
                    held_out=False,
                    finished=reply.finished,
                    created_at=now,
                )
            )
    return ExampleSet(unpaired=tuple(rated))


def measure(weights: Weights, persona: Persona, name: str, seconds: float) -> Row:
    """Measure the four columns with the weights as they are now."""
    prompts = [prompt_for(SYSTEM_PROMPT, each) for each in questions(NEW_TOPICS, MEASURED, seed=1)]
    replies = generate_replies(weights, prompts, with_seeds(SAMPLING, MEASURED))
    checks = load_retention_suite()
    kept = answer_checks(weights, checks, SYSTEM_PROMPT)
    pleased = [persona.likes(each.prompt[-1].content, each.text) for each in replies]
    weights.merged.switch_to(None)
    nll = mean_nll(weights, replies)
    return Row(
        persona=persona.name,
        recipe=name,
        pleased=sum(pleased) / len(pleased),
        nll=nll,
        retention=pass_rate(checks, [each.text for each in kept]),
        seconds=seconds,
    )


def base(settings: Settings) -> Weights:
    """Load the base model."""
    return load_weights(
        settings.engine.model,
        models_folder=settings.storage.models_path,
        device=settings.engine.device,
    )


def adapted(settings: Settings, folder: Path, name: str) -> Weights:
    """Load the base model with an adapter in use."""
    weights = base(settings)
    weights.merged.add(name, weights.merged.merge(name, read_updates(folder, name)))
    weights.merged.switch_to(name)
    return weights


@dataclass(frozen=True, kw_only=True)
class Trained:
    """An adapter's folder, and the seconds that training took without judging."""

    folder: Path
    seconds: float


Train = Callable[[Weights, ExampleSet, Path], Trained]


def ours(settings: Settings, recipe: Recipe, *, guarded: bool) -> Train:
    """Return Ratchet's fine-tuning; unguarded, every checkpoint passes and the last one wins."""

    def train(weights: Weights, examples: ExampleSet, folder: Path) -> Trained:
        attend_by_matrix_products(weights.model)
        judged = 0.0
        seen = 0
        judge = _judge(settings, weights, examples) if guarded else None
        started = time.monotonic()
        rehearsed = rehearse(weights, recipe.rehearsal, SYSTEM_PROMPT)

        def verdict(model: PeftModel) -> Verdict:
            nonlocal judged, seen
            seen += 1
            began = time.monotonic()
            found = judge(model) if judge else Verdict(score=seen, budget_used=1.0)  # budget spent
            judged += time.monotonic() - began
            return found

        written = finetune(
            weights,
            examples,
            recipe,
            folder,
            rehearsed=rehearsed,
            report=_ignore,
            judge=verdict,
        )
        return Trained(folder=written, seconds=time.monotonic() - started - judged)

    return train


def trl_kto(recipe: Recipe) -> Train:
    """Return a training by TRL's KTOTrainer, with its defaults wherever it has one."""

    def train(weights: Weights, examples: ExampleSet, folder: Path) -> Trained:
        rows = [
            {
                "prompt": weights.template.render(each.prompt),
                "completion": each.completion,
                "label": each.label,
            }
            for each in examples.unpaired
        ]
        config = KTOConfig(beta=recipe.beta, **_trl(recipe, weights.model.device, folder))
        return _trained(KTOTrainer, weights, config, rows, recipe, folder)

    return train


def trl_sft(recipe: Recipe) -> Train:
    """Return a training by TRL's SFTTrainer with its defaults, on the liked replies."""

    def train(weights: Weights, examples: ExampleSet, folder: Path) -> Trained:
        rows = [
            {"prompt": weights.template.render(each.prompt), "completion": each.completion}
            for each in examples.unpaired
            if each.label
        ]
        config = SFTConfig(**_trl(recipe, weights.model.device, folder))
        return _trained(SFTTrainer, weights, config, rows, recipe, folder)

    return train


def _trl(recipe: Recipe, device: torch.device, folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "trl"),
        "use_cpu": device.type == "cpu",
        "learning_rate": recipe.learning_rate,
        "num_train_epochs": recipe.epochs,
        "per_device_train_batch_size": recipe.batch_size,
        "seed": recipe.seed,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def _trained(
    kind: Any, weights: Weights, config: Any, rows: list[Any], recipe: Recipe, folder: Path
) -> Trained:
    lora = LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    started = time.monotonic()
    trainer = kind(
        model=weights.model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=weights.tokenizer,
        peft_config=lora,
    )
    trainer.train()
    seconds = time.monotonic() - started
    trainer.model.save_pretrained(str(folder / "adapter"))
    return Trained(folder=folder / "adapter", seconds=seconds)


def _judge(settings: Settings, weights: Weights, examples: ExampleSet) -> CheckpointJudge:
    embedder = SentenceEmbedder(settings.retrieval.embedder)
    middle = len(examples.unpaired) * 4 // 5  # as many as a run would hold out
    predictor = RatingPredictor(embedder, examples.unpaired[:middle], examples.unpaired[middle:])
    return CheckpointJudge(
        weights,
        predictor,
        examples,
        system_prompt=settings.reply.system_prompt,
        drift_kl=settings.train.drift_kl,
        nll_rise=settings.gate.nll_rise,
    )


def _ignore(point: Point) -> None:
    pass


def recipes(settings: Settings) -> dict[str, Train]:
    """Return every recipe to compare, by name."""
    recipe = Recipe.of(settings.train)
    bare = replace(recipe, rehearsal=0, checkpoints=1)
    field = replace(bare, learning_rate=5e-4, epochs=1, beta=0.1, layers=1.0)
    return {
        "ratchet": ours(settings, recipe, guarded=True),
        "without rehearsal": ours(settings, replace(recipe, rehearsal=0), guarded=True),
        "without guard": ours(settings, replace(recipe, checkpoints=1), guarded=False),
        "every layer": ours(settings, replace(recipe, checkpoints=1, layers=1.0), guarded=False),
        "lr 5e-4, β 0.1, unguarded": ours(settings, field, guarded=False),
        "TRL KTO": trl_kto(recipe),
        "TRL SFT": trl_sft(recipe),
    }


def run(settings: Settings, personas: Sequence[str], names: Sequence[str], count: int) -> list[Row]:
    """Measure every persona × recipe, the base model first."""

    weights = base(settings)
    replies = collect(weights, count)
    rows = []
    for persona in (PERSONAS[name] for name in personas):
        rows.append(measure(weights, persona, "base model", 0.0))
        show(rows[-1])
        examples = rate(persona, replies)
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                trained = recipes(settings)[name](base(settings), examples, Path(folder))
                weights_with = adapted(settings, trained.folder, name)
                rows.append(measure(weights_with, persona, name, trained.seconds))
            show(rows[-1])
    return rows


def show(row: Row) -> None:
    """Print a row as soon as it is known, since the whole run takes hours."""
    print(json.dumps(asdict(row), ensure_ascii=False), flush=True)


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--personas", nargs="+", choices=PERSONAS, default=list(PERSONAS))
    parser.add_argument("--recipes", nargs="+", default=["ratchet", "TRL KTO", "TRL SFT"])
    parser.add_argument("--count", type=int, default=400, help="rated replies")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    options = parser.parse_args()
    as_a_run_is("benchmarks.learn")
    target = options.json.absolute() if options.json else None
    with scratch_settings(**SETTINGS) as settings:
        rows = run(settings, options.personas, options.recipes, options.count)
    table = Table("persona", "recipe", "pleased", "base NLL", "retention", "seconds", box=None)
    for row in rows:
        shares = (f"{row.pleased:.0%}", f"{row.nll:.2f}", f"{row.retention:.1%}")
        table.add_row(row.persona, row.recipe, *shares, f"{row.seconds:.0f}")
    Console().print(table)
    if target:
        target.write_text(json.dumps([asdict(row) for row in rows], ensure_ascii=False, indent=2))


if __name__ == "__main__":
    main()
