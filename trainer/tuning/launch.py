"""The training of one run: a folder with a job goes in, an adapter in that folder comes out.

With one process it happens in this one; with several, `accelerate launch` runs this module, and
what they report comes back as lines of JSON on their standard output.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bot.engine.local import choose_device, load_weights
from store.domain import Demonstration, Example, ExampleSet, Message, PreferencePair
from store.embedder import SentenceEmbedder
from store.settings import Settings, load_settings
from trainer.errors import TrainingFailed
from trainer.examples.dataset import Snapshot
from trainer.passes.training_attention import attend_by_matrix_products
from trainer.proving.predictor import RatingPredictor
from trainer.recipe import Recipe
from trainer.tuning.checkpoint_judge import CheckpointJudge
from trainer.tuning.finetune import ADAPTER_FOLDER, Point, Report, finetune
from trainer.tuning.rehearsal import rehearse

JOB_FILE = "job.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained on, how, and in which folder."""

    snapshot: Snapshot
    recipe: Recipe
    folder: Path

    def write(self) -> None:
        """Leave it in its folder for the processes that `accelerate launch` starts."""
        job = {
            "recipe": self.recipe.as_dict(),
            "train": asdict(self.snapshot.train),
            "held_out": asdict(self.snapshot.held_out),
        }
        text = json.dumps(job, default=lambda value: value.isoformat(), ensure_ascii=False)
        (self.folder / JOB_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Job":
        """What `write` wrote."""
        job = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
        snapshot = Snapshot(train=_examples(job["train"]), held_out=_examples(job["held_out"]))
        return cls(snapshot=snapshot, recipe=Recipe(**job["recipe"]), folder=folder)


def train(settings: Settings, job: Job, predictor: RatingPredictor, report: Report) -> Path:
    """Train an adapter; the folder that it is in. Raises `TrainingFailed` or `EngineError`."""
    if settings.train.processes == 1:
        return carry_out(settings, job, predictor, report)
    job.write()
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--multi_gpu", "--num_processes", str(settings.train.processes)),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--module", "trainer.tuning.launch", str(job.folder)),
    ]
    on_cpu = choose_device(settings.engine.device).type == "cpu"
    # With --cpu it would start one process only: several are for GPUs, or so it thinks.
    environment = os.environ | ({"ACCELERATE_USE_CPU": "true"} if on_cpu else {})
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as processes:
        assert processes.stdout is not None
        try:
            for line in processes.stdout:
                if line.startswith("{"):
                    report(Point(**json.loads(line)))
        except BaseException:  # cancelled: they must not go on without us
            processes.terminate()
            raise
    if processes.returncode != 0:
        raise TrainingFailed(f"accelerate launch ended with exit code {processes.returncode}")
    return job.folder / ADAPTER_FOLDER


def carry_out(settings: Settings, job: Job, predictor: RatingPredictor, report: Report) -> Path:
    """The training itself, in this process."""
    weights = load_weights(
        settings.engine.model,
        models_folder=settings.storage.models_path,
        device=settings.engine.device,
        four_bits=job.recipe.method == "qlora",
    )
    attend_by_matrix_products(weights.model)
    judge = CheckpointJudge(
        weights,
        predictor,
        job.snapshot.train,
        system_prompt=settings.reply.system_prompt,
        drift_kl=job.recipe.drift_kl,
        nll_rise=settings.gate.nll_rise,
    )
    return finetune(
        weights,
        job.snapshot.train,
        job.recipe,
        job.folder,
        rehearsed=rehearse(weights, job.recipe.rehearsal, settings.reply.system_prompt),
        report=report,
        judge=judge,
    )


def predictor_for(embedder: str, snapshot: Snapshot) -> RatingPredictor:
    """Return a predictor of ratings over a named embedder, fitted on what is trained on."""
    return RatingPredictor(
        SentenceEmbedder(embedder), snapshot.train.unpaired, snapshot.held_out.unpaired
    )


def _examples(kinds: Mapping[str, list[dict[str, Any]]]) -> ExampleSet:
    return ExampleSet(
        unpaired=tuple(Example(**_values(row)) for row in kinds["unpaired"]),
        pairs=tuple(PreferencePair(**_values(row)) for row in kinds["pairs"]),
        demonstrations=tuple(Demonstration(**_values(row)) for row in kinds["demonstrations"]),
    )


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    prompt = tuple(Message(**message) for message in row["prompt"])
    return {**row, "prompt": prompt, "created_at": datetime.fromisoformat(row["created_at"])}


def main() -> None:
    """One of the processes of `accelerate launch`."""
    settings, job = load_settings(), Job.read(Path(sys.argv[1]))

    def report(point: Point) -> None:
        print(json.dumps(asdict(point)), flush=True)  # noqa: T201  # to the parent

    predictor = predictor_for(settings.retrieval.embedder, job.snapshot)
    carry_out(settings, job, predictor, report)


if __name__ == "__main__":
    main()
