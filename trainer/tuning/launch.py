"""Starts the training of a run: a job goes in, an adapter in the job's folder comes out.

With one process, the training happens in the calling process. With several, `accelerate launch`
runs this module, and they report each step as a line of JSON on their standard output.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from bot.engine.local import choose_device, load_weights
from store.embedder import SentenceEmbedder
from store.settings import Settings, load_settings
from trainer.errors import TrainingFailed
from trainer.examples.dataset import Snapshot
from trainer.passes.training_attention import attend_by_matrix_products
from trainer.proving.predictor import RatingPredictor
from trainer.recipe import Recipe
from trainer.tuning.checkpoint_judge import CheckpointJudge
from trainer.tuning.checkpoints import Point, Report
from trainer.tuning.finetune import ADAPTER_FOLDER, finetune
from trainer.tuning.rehearsal import rehearse

JOB_FILE = "job.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """The training of one run: its examples, its recipe, and the folder that it works in."""

    snapshot: Snapshot
    recipe: Recipe
    folder: Path

    def write(self) -> None:
        """Write the job into its folder, for the processes that `accelerate launch` starts."""
        (self.folder / JOB_FILE).write_bytes(TypeAdapter(Job).dump_json(self))

    @classmethod
    def read(cls, folder: Path) -> "Job":
        """Read the job that `write` wrote into a folder."""
        return TypeAdapter(cls).validate_json((folder / JOB_FILE).read_bytes())


def train(settings: Settings, job: Job, predictor: RatingPredictor, report: Report) -> Path:
    """Train an adapter and return its folder. Raises `TrainingFailed` or `EngineError`."""
    if settings.train.processes == 1:
        return carry_out(settings, job, predictor, report)
    job.write()
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--multi_gpu", "--num_processes", str(settings.train.processes)]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--module", "trainer.tuning.launch", str(job.folder)]
    environment = dict(os.environ)
    if choose_device(settings.engine.device).type == "cpu":
        # The option --cpu would not do: with it, accelerate starts one process only.
        environment["ACCELERATE_USE_CPU"] = "true"
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as processes:
        assert processes.stdout is not None
        try:
            for line in processes.stdout:
                if line.startswith("{"):
                    report(Point(**json.loads(line)))
        except BaseException:  # cancelled: the processes must not train on
            processes.terminate()
            raise
    if processes.returncode != 0:
        raise TrainingFailed(f"accelerate launch ended with exit code {processes.returncode}")
    return job.folder / ADAPTER_FOLDER


def carry_out(settings: Settings, job: Job, predictor: RatingPredictor, report: Report) -> Path:
    """Train in this process and return the adapter's folder."""
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
    """Return a predictor over a named embedder, fitted on the ratings of the training examples."""
    return RatingPredictor(
        SentenceEmbedder(embedder), snapshot.train.unpaired, snapshot.held_out.unpaired
    )


def main() -> None:
    """Train as one of the processes of `accelerate launch`."""
    settings, job = load_settings(), Job.read(Path(sys.argv[1]))

    def report(point: Point) -> None:
        print(json.dumps(asdict(point)), flush=True)  # noqa: T201  # read by the parent process

    predictor = predictor_for(settings.retrieval.embedder, job.snapshot)
    carry_out(settings, job, predictor, report)


if __name__ == "__main__":
    main()
