"""The exceptions of the trainer.

    TrainerError
    ├── NothingToLearn    too few examples, or only one kind of rating: the run is skipped
    ├── TrainingFailed    the training failed, or the model cannot be trained
    └── RunCancelled      an admin stopped the run

Every message is a sentence that tells an admin what to do.
"""


class TrainerError(Exception):
    """Base of everything the trainer raises on purpose."""


class NothingToLearn(TrainerError):
    """Too few examples, or too few of one kind of rating."""


class TrainingFailed(TrainerError):
    """The training failed, or the model cannot be trained as the settings ask."""


class RunCancelled(TrainerError):
    """An admin stopped the run."""
