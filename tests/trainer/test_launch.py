"""A job reads back as it was written for other processes, whatever its examples say."""

from dataclasses import replace
from pathlib import Path

from store.domain import ExampleSet
from tests.trainer.examples import demonstration, pair, rated, recipe
from trainer.examples.dataset import Snapshot
from trainer.tuning.launch import Job


def test_a_job_that_was_written_is_read_as_it_was(tmp_path: Path) -> None:
    snapshot = Snapshot(
        train=ExampleSet(
            unpaired=(
                replace(rated(1, reply='"é" 👍\n\u2028'), raters=(7, 2**40)),
                rated(2, False),
            ),
            pairs=(pair(3),),
            demonstrations=(demonstration(4, imported=True),),
        ),
        held_out=ExampleSet(unpaired=(rated(5, held_out=True, finished=False),)),
    )
    job = Job(snapshot=snapshot, recipe=recipe(seed=3, epochs=0.5), folder=tmp_path)

    job.write()

    assert Job.read(tmp_path) == job
