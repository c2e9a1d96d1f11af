"""The share of a run that is done only grows, from stage to stage."""

from trainer.progress import RunStage


def test_no_stage_begins_before_the_one_that_comes_before_it() -> None:
    begins = [stage.begins_at for stage in RunStage]

    assert begins == sorted(begins)
    assert begins[0] > 0
    assert begins[-1] < 1
